package evidence

// Judge says what an answer proves. why is what is missing if the verdict is neither Applied nor NotApplied. several is whether the
// cluster may have several masters, each with a history of its own.
func Judge(t Trace, a Answer, h *History, several bool) (v Verdict, why string) {
	switch {
	case t.XID == 0 || t.Life.Timeline == 0:
		return Unknown, "the transaction's id is not known"
	case a.Life.Timeline == 0:
		return Unknown, "the master does not tell its timeline"
	case t.SystemID != 0 && a.SystemID != 0 && t.SystemID != a.SystemID:
		return Unknown, "the master is one of another cluster"
	case a.Life == t.Life:
		return sameLife(a.Status)
	case several:
		return Unknown, "there may be several masters, and this is not the one of the transaction"
	case a.Life.Timeline < t.Life.Timeline:
		return Elsewhere, "the node that answers is on an older timeline than the transaction"
	case a.Life.Timeline == t.Life.Timeline && a.Node != t.Node:
		return Unknown, "another node is the master on the same timeline"
	}
	return laterLife(t, a, h)
}

// Over reports whether the transaction can't be applied any more, if it was not before, in the history of the server that answers. Of
// a server of which Judge knows nothing better than Unknown.
func Over(t Trace, a Answer, several bool) bool {
	switch {
	case t.XID == 0 || t.Life.Timeline == 0 || a.Life.Timeline == 0, t.SystemID != 0 && a.SystemID != 0 && t.SystemID != a.SystemID:
		return false
	case a.Life == t.Life:
		return a.Status != InProgress
	}
	return !several && (a.Life.Timeline > t.Life.Timeline || a.Life.Timeline == t.Life.Timeline && a.Node == t.Node)
}

func sameLife(s Status) (Verdict, string) {
	switch s {
	case InProgress:
		return Pending, "the session of the transaction has not ended"
	case Aborted:
		return NotApplied, ""
	case Committed:
		return Applied, ""
	}
	return Unknown, "the master has forgotten the transaction"
}

func laterLife(t Trace, a Answer, h *History) (Verdict, string) {
	switch {
	case a.Status == InProgress || a.Status == Aborted:
		return NotApplied, ""
	case t.LSN == 0:
		return Unknown, "the transaction's position in the WAL is not known"
	case a.Life.Recovered != 0 && t.LSN > a.Life.Recovered:
		return NotApplied, ""
	case a.Status != Committed:
		return Unknown, "the master has forgotten the transaction"
	}
	end, why := h.commonEnd(t, a)
	switch {
	case why != "":
		return Unknown, why
	case t.LSN > end:
		return NotApplied, ""
	}
	return Applied, ""
}
