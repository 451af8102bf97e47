package patches

import "testing"

func TestAntiAffinity(t *testing.T) { runCases(t, "anti-affinity", addSpread) }
