package discovery

import (
	"context"
	"slices"
)

// StaticList is a list that never changes. [Static] makes one.
type StaticList struct {
	endpoints []Endpoint
}

// Static returns a discoverer that always finds the given nodes, in their order. It is for lists that have zones and tags,
// and for tests. It never blocks.
func Static(endpoints ...Endpoint) *StaticList {
	s := &StaticList{endpoints: slices.Clone(endpoints)}
	for i, e := range s.endpoints {
		if n, err := e.normal(); err == nil {
			s.endpoints[i] = n // its tags are a copy
		}
	}
	return s
}

// Validate says what is wrong with the list.
func (s *StaticList) Validate() error {
	_, err := s.list()
	return err
}

// Discover returns the list, or says what is wrong with it.
func (s *StaticList) Discover(ctx context.Context) ([]Endpoint, error) {
	if err := ctx.Err(); err != nil {
		return result("a list", nil, err)
	}
	return s.list()
}

func (s *StaticList) list() ([]Endpoint, error) { return result("a list", s.endpoints, nil) }
