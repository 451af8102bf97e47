package patches

import "testing"

func TestTopologySpread(t *testing.T) { runCases(t, "topology-spread", addSpread, addRecord) }
