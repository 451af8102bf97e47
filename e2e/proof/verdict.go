package main

import (
	"errors"
	"fmt"
	"strings"
)

// verdict returns an error that names the scenarios in which evenkeel promises that nothing fails and something did.
func (r *report) verdict() error {
	var broken []string
	for _, row := range r.rows() {
		if promised(row.ID) && row.sides[with].unexcepted() > 0 {
			broken = append(broken, fmt.Sprintf("%s: %d of %d (%s)", row.Title, row.sides[with].unexcepted(), row.sides[with].Sent, causes(row.sides[with].Causes)))
		}
	}
	if len(broken) == 0 {
		return nil
	}
	return errors.New("requests failed with evenkeel: " + strings.Join(broken, "; "))
}

// unexcepted returns how many failures no exception names.
func (s *summary) unexcepted() int { return s.Failed - s.Cut - s.Raced - s.Undone }

// promised says whether no request may fail in a scenario: in 1 to 5 and 8.
func promised(id string) bool { return strings.ContainsAny(id[:1], "123458") }
