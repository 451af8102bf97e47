package patches

import "testing"

func TestPreStopSleep(t *testing.T) { runCases(t, "pre-stop-sleep", addPreStopSleep) }
