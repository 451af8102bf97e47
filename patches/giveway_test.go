package patches

import "testing"

func TestGiveWay(t *testing.T) { runCases(t, "give-way") }
