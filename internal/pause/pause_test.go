package pause

import (
	"context"
	"testing"
	"time"
)

func TestForEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	For(ctx, time.Hour) // or the test never ends
	For(t.Context(), time.Nanosecond)
}
