package main

import (
	"fmt"
	"testing"
)

func TestTheUpdaterLeavesHalfOfTheReplicasRunning(t *testing.T) {
	for _, tt := range []struct {
		replicas, running, evicted int
		want                       bool
	}{
		// one of three in a round, and none while its successor is pending
		{3, 3, 0, true}, {3, 3, 1, false}, {3, 2, 0, false},
		{4, 4, 0, true}, {4, 4, 1, true}, {4, 4, 2, false},
		{1, 1, 0, true}, {1, 0, 0, false}, {2, 2, 0, true}, {2, 2, 1, false},
	} {
		if got := evictable(tt.replicas, tt.running, tt.evicted); got != tt.want {
			t.Errorf("of %d, with %d running and %d evicted: %v, want %v", tt.replicas, tt.running, tt.evicted, got, tt.want)
		}
	}
}

func TestServicesHaveTheFamiliesThatTheFlagNames(t *testing.T) {
	for value, want := range map[string]string{"IPv4": "[IPv4]", "IPv6": "[IPv6]", "IPv6,IPv4": "[IPv6 IPv4]",
		"": "", "ipv6": "", "IPv4,IPv4": "", "IPv4,": "", "IPv4,IPv6,IPv4": ""} {
		families, err := options{ipFamilies: value}.families()
		if (err == nil) != (want != "") || err == nil && fmt.Sprint(families) != want {
			t.Errorf("%q: %v, %v; want %q", value, families, err, want)
		}
	}
}

func TestOffIsAListOfSettings(t *testing.T) {
	off, err := options{off: "pre-stop-sleep,readiness-probe"}.settingsOff()
	if err != nil || len(off) != 2 || off["evenkeel.dev/readiness-probe"] != "off" {
		t.Errorf("%v, %v", off, err)
	}
	for _, bad := range []string{"sleep", "pre-stop-sleep,grace-period"} {
		if off, err := (options{off: bad}).settingsOff(); err == nil {
			t.Errorf("%q gives %v", bad, off)
		}
	}
}
