package installation

import "testing"

const page = `# HELP reviews_total Reviews.
# TYPE reviews_total counter
reviews_total{kind="Pod",operation="CREATE"} 3
reviews_total{kind="PodTemplate",operation="CREATE"} 5
reviews_total{kind="Pod",operation="UPDATE"} 7
# TYPE took_seconds histogram
took_seconds_bucket{le="1"} 2
took_seconds_bucket{le="+Inf"} 3
took_seconds_sum 4.5
took_seconds_count 3
# TYPE memory_bytes gauge
memory_bytes 1.5e+06
`

func TestSumAddsTheSamplesWithAllLabels(t *testing.T) {
	for name, c := range map[string]struct {
		metric string
		labels []string
		want   float64
	}{
		"all samples":                   {"reviews_total", nil, 15},
		"those with a label":            {"reviews_total", []string{`kind="Pod"`}, 10},
		"those with two labels":         {"reviews_total", []string{`operation="CREATE"`, `kind="Pod"`}, 3},
		"a label with another value":    {"reviews_total", []string{`kind="Job"`}, 0},
		"a label that there is not":     {"reviews_total", []string{`color="red"`}, 0},
		"the count of a histogram":      {"took_seconds_count", nil, 3},
		"the sum of a histogram":        {"took_seconds_sum", nil, 4.5},
		"a bucket of a histogram":       {"took_seconds_bucket", []string{`le="1"`}, 2},
		"a gauge in scientific form":    {"memory_bytes", nil, 1.5e6},
		"a metric that there is not":    {"reviews", nil, 0},
		"a name that another begins as": {"took_seconds", nil, 0},
	} {
		if got, err := Sum(page, c.metric, c.labels...); err != nil || got != c.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}
	if _, err := Sum("reviews_total{kind=\n", "reviews_total"); err == nil {
		t.Error("half a page is no error")
	}
}
