package main

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDestinationsAreWhereRulesLead(t *testing.T) {
	for name, rules := range map[string]string{
		"iptables-save": `*nat
:KUBE-SEP-22A - [0:0]
-A KUBE-SEP-22A -s 10.244.0.7/32 -m comment --comment "with/d1:http" -j KUBE-MARK-MASQ
-A KUBE-SEP-22A -p tcp -m comment --comment "with/d1:http" -m tcp -j DNAT --to-destination 10.244.0.5:8080
-A KUBE-SEP-BWE -p tcp -m comment --comment "with/d1:http" -m tcp -j DNAT --to-destination 10.244.16.9:8080
-A KUBE-SVC-LLQ ! -s 10.244.0.0/16 -d 10.0.0.44/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
`,
		"nft": `table ip kube-proxy {
	set hairpin-connections {
		type ipv4_addr . ipv4_addr
		elements = { 10.244.0.7 . 10.244.0.7 }
	}
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.0.0.44 . tcp . 80 : goto service-4AT-with/d1/tcp/http }
	}
	chain service-4AT-with/d1/tcp/http {
		ip daddr 10.0.0.44 tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
		meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.0.5 . 8080, 1 : 10.244.16.9 . 8080 }
	}
	chain service-5BU-with/gone/tcp/http {
	}
}
`,
		"nft with session affinity": `	chain endpoint-4AT-with/d1/tcp/http__10.244.0.5/8080 {
		ip saddr 10.244.0.7 jump mark-for-masquerade
		update @affinity-4AT-with/d1/tcp/http__10.244.0.5/8080 { ip saddr timeout 3h }
		meta l4proto tcp dnat to 10.244.0.5:8080
	}
	chain endpoint-4AT-with/d1/tcp/http__10.244.16.9/8080 {
		meta l4proto tcp dnat to 10.244.16.9:8080
	}
`} {
		got := slices.Sorted(maps.Keys(destinations([]byte(rules))))
		if diff := cmp.Diff([]string{"10.244.0.5", "10.244.16.9"}, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}
