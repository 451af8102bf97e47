package patches

import "testing"

func TestNodeLoss(t *testing.T) { runCases(t, "node-loss", addNodeLoss, addRecord) }
