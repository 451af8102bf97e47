package patches

import "testing"

func TestRecord(t *testing.T) { runCases(t, "record") }
