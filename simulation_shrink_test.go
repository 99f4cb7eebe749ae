package hasql

import "slices"

// shrink looks for as few steps as it can find with which the invariant still fails: it leaves out half of them, then
// quarters, down to one by one, for as long as that goes on working.
func (f workers) shrink(r result) result {
	sp, err := parseSpec(r.Spec)
	if err != nil || len(r.Failures) == 0 {
		return r
	}
	invariant := r.Failures[0].Invariant
	if !sp.some {
		for i := range sp.plan().steps {
			sp.keep = append(sp.keep, i)
		}
		sp.some = true
	}
	for size := (len(sp.keep) + 1) / 2; size > 0; {
		smaller := false
		for at := 0; at < len(sp.keep); {
			without := sp
			without.keep = slices.Delete(slices.Clone(sp.keep), at, min(at+size, len(sp.keep)))
			if again, failed := f.fails(without, invariant); failed {
				sp, r, smaller = without, again, true
			} else {
				at += size
			}
		}
		if !smaller || size > len(sp.keep) {
			size /= 2
		}
	}
	return r
}

// fails runs a spec and reports whether an invariant does not hold.
func (f workers) fails(sp spec, invariant string) (r result, failed bool) {
	f.trace = true
	f.work([]spec{sp}, func(got result) bool {
		r = got
		return true
	})
	return r, slices.ContainsFunc(r.Failures, func(f failure) bool { return f.Invariant == invariant })
}
