package patches

import "testing"

func TestReadinessProbe(t *testing.T) { runCases(t, "readiness-probe", addReadinessProbe) }
