// Package collectors registers metrics.
package collectors

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Register registers metrics with registerer; where that is nil, nobody collects them.
func Register(registerer prometheus.Registerer, metrics ...prometheus.Collector) error {
	if registerer == nil {
		return nil
	}
	for _, m := range metrics {
		if err := registerer.Register(m); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}
