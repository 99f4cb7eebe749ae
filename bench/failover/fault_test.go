package main

import (
	"slices"
	"testing"
	"time"
)

var usual = timing{promote: 300 * ms, heal: 5 * time.Second, stray: 5 * time.Second, calm: 1500 * ms}

func TestEveryFaultHasAPlanThatFits(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, f := range faults {
		if seen[f.name] {
			t.Errorf("%s stands there twice", f.name)
		}
		seen[f.name] = true
		s := f.schedule(usual)
		marks := make(map[string]bool)
		for i, one := range s.steps {
			marks[one.mark] = true
			if one.do == nil || one.at > s.end || i > 0 && one.at < s.steps[i-1].at {
				t.Errorf("%s: step %q at %v of %v", f.name, one.mark, one.at, s.end)
			}
		}
		if marks["promotion"] == f.unpromoted || marks["heal"] != f.proxied || marks[wakeMark] != f.idle {
			t.Errorf("%s: steps %v do not fit what is said of it", f.name, marks)
		}
	}
}

func TestThawMayComeBeforeThePromotion(t *testing.T) {
	t.Parallel()
	early := usual
	early.heal = 100 * ms
	freeze := faults[slices.IndexFunc(faults, func(f fault) bool { return f.name == "freeze" })]
	s := freeze.schedule(early)
	if s.steps[1].mark != "thaw" || s.steps[2].mark != "election" || s.steps[3].mark != "promotion" || s.end != 5300*ms {
		t.Errorf("got %+v", s)
	}
}
