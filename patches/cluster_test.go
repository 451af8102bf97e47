package patches

import "testing"

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]Version{
		"1.33": {1, 33}, "v1.33": {1, 33}, "1.33.2": {1, 33}, "v1.33.2-gke.100": {1, 33}, "1.33+": {1, 33},
		"v1.30.0-eks-1a2b": {1, 30},
		"1.0":              {1, 0}, "2.1": {2, 1}, "1.255": {1, 255},
	} {
		if got, err := ParseVersion(text); err != nil || got != want {
			t.Errorf("%q is %v with the error %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", " ", "1", "1.", "v", ".33", "0.9", "1.x", "1.-1", "1.+3", "-1.33", "1.256", "256.1", "1,33", " 1.33", "1.33 ",
		"vv1.33", "V1.33",
		"latest", "1.33\n", "99999999999999999999.1", "1.0x10",
	} {
		if got, err := ParseVersion(text); err == nil || got != (Version{}) {
			t.Errorf("%q is %v with the error %v, want an error", text, got, err)
		}
	}
}

func TestVersionComparesAndPrints(t *testing.T) {
	for _, row := range []struct {
		version Version
		minor   int
		atLeast bool
		text    string
	}{
		{Version{}, 0, false, "unknown"}, {Version{1, 32}, 33, false, "1.32"}, {Version{1, 33}, 33, true, "1.33"},
		{Version{1, 34}, 33, true, "1.34"}, {Version{2, 0}, 33, true, "2.0"}, {Version{0, 99}, 33, false, "0.99"},
	} {
		if got := row.version.AtLeast(row.minor); got != row.atLeast || row.version.String() != row.text {
			t.Errorf("%v: at least 1.%d is %t, want %t", row.version, row.minor, got, row.atLeast)
		}
	}
}

// TestNativeSleep is the truth table of the doc comment, with the versions at its
// edges.
func TestNativeSleep(t *testing.T) {
	unknown := Version{}
	for _, row := range []struct {
		server, kubelet Version
		want            bool
	}{
		{unknown, unknown, false}, {unknown, Version{1, 36}, false},
		{Version{1, 29}, Version{1, 29}, false}, {Version{1, 29}, Version{1, 30}, false}, {Version{1, 29}, unknown, false},
		{Version{1, 30}, Version{1, 30}, true}, {Version{1, 36}, Version{1, 30}, true},
		{Version{1, 36}, Version{1, 36}, true},
		{Version{1, 30}, Version{1, 29}, false}, {Version{1, 32}, Version{1, 29}, false},
		{Version{1, 36}, Version{1, 29}, false},
		{Version{1, 30}, unknown, false}, {Version{1, 32}, unknown, false},
		{Version{1, 33}, unknown, true}, {Version{1, 36}, unknown, true},
	} {
		if got := (Cluster{APIServer: row.server, OldestKubelet: row.kubelet}).nativeSleep(); got != row.want {
			t.Errorf("API server %v, kubelet %v: %t, want %t", row.server, row.kubelet, got, row.want)
		}
	}
}

// TestFit is the truth table of addPreStopSleep, with the values at its edges.
func TestFit(t *testing.T) {
	const largest = int64(^uint64(0) >> 1)
	for _, row := range []struct {
		grace, sleep, maximum int64
		raised                bool
		fitted, raise         int64
	}{
		{-largest - 1, 10, 600, false, 0, 0}, {-1, 10, 600, false, 0, 0}, {0, 10, 600, false, 0, 0}, {0, 10, 600, true, 0, 0},
		{1, 10, 600, false, 10, 10}, {30, 10, 600, false, 10, 10}, {590, 10, 600, false, 10, 10}, {30, 10, 40, false, 10, 10},
		{591, 10, 600, false, 9, 9}, {599, 10, 600, false, 1, 1}, {30, 60, 40, false, 10, 10},
		{600, 10, 600, false, 10, 0}, {601, 10, 600, false, 10, 0}, {largest, 10, 600, false, 10, 0},
		{15, 10, 15, false, 7, 0}, {20, 10, 1, false, 10, 0}, {19, 10, 1, false, 9, 0}, {2, 10, 1, false, 1, 0},
		{1, 10, 1, false, 0, 0},
		{40, 10, 600, true, 10, 0}, {15, 10, 600, true, 7, 0}, {1, 10, 600, true, 0, 0}, {600, 10, 600, true, 10, 0},
	} {
		fitted, raise := fit(row.grace, row.sleep, row.maximum, row.raised)
		if fitted != row.fitted || raise != row.raise {
			t.Errorf("fit(%d, %d, %d, %t) is %d, %d; want %d, %d", row.grace, row.sleep, row.maximum, row.raised, fitted, raise,
				row.fitted, row.raise)
		}
		if row.grace > 0 && fitted > row.grace+raise {
			t.Errorf("fit(%d, %d, %d, %t): a sleep of %d s does not fit", row.grace, row.sleep, row.maximum, row.raised, fitted)
		}
	}
}
