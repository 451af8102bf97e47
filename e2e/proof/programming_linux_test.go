package main

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDestinationsAreWhereRulesLead(t *testing.T) {
	four, six := []string{"10.244.0.5", "10.244.16.9"}, []string{"fd00:244:1::9", "fd00:244::5"}
	for name, c := range map[string]struct {
		rules string
		want  []string
	}{
		"iptables-save": {`*nat
:KUBE-SEP-22A - [0:0]
-A KUBE-SEP-22A -s 10.244.0.7/32 -m comment --comment "with/d1:http" -j KUBE-MARK-MASQ
-A KUBE-SEP-22A -p tcp -m comment --comment "with/d1:http" -m tcp -j DNAT --to-destination 10.244.0.5:8080
-A KUBE-SEP-BWE -p tcp -m comment --comment "with/d1:http" -m tcp -j DNAT --to-destination 10.244.16.9:8080
-A KUBE-SVC-LLQ ! -s 10.244.0.0/16 -d 10.0.0.44/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
`, four},
		"ip6tables-save": {`*nat
-A KUBE-SEP-22A -s fd00:244::7/128 -m comment --comment "with/d1:http" -j KUBE-MARK-MASQ
-A KUBE-SEP-22A -p tcp -m comment --comment "with/d1:http" -m tcp -j DNAT --to-destination [fd00:244::5]:8080
-A KUBE-SEP-BWE -p tcp -m comment --comment "with/d1:http" -m tcp -j DNAT --to-destination [fd00:244:1::9]:8080
-A KUBE-SVC-LLQ -d fd00:96::44/128 -p tcp -m tcp --dport 80 -j KUBE-SEP-22A
`, six},
		"nft of IPv6": {`table ip6 kube-proxy {
	chain service-4AT-with/d1/tcp/http {
		ip6 daddr fd00:96::44 tcp dport 80 jump mark-for-masquerade
		meta l4proto tcp dnat ip6 to numgen random mod 2 map { 0 : fd00:244::5 . 8080, 1 : fd00:244:1::9 . 8080 }
	}
	chain endpoint-4AT-with/d1/tcp/http__fd00:244::5/8080 {
		ip6 saddr fd00:244::7 jump mark-for-masquerade
		meta l4proto tcp dnat to [fd00:244::5]:8080
	}
}
`, six},
		"nft": {`table ip kube-proxy {
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
`, four},
		"nft with session affinity": {`	chain endpoint-4AT-with/d1/tcp/http__10.244.0.5/8080 {
		ip saddr 10.244.0.7 jump mark-for-masquerade
		update @affinity-4AT-with/d1/tcp/http__10.244.0.5/8080 { ip saddr timeout 3h }
		meta l4proto tcp dnat to 10.244.0.5:8080
	}
	chain endpoint-4AT-with/d1/tcp/http__10.244.16.9/8080 {
		meta l4proto tcp dnat to 10.244.16.9:8080
	}
`, four},
	} {
		got := slices.Sorted(maps.Keys(destinations([]byte(c.rules))))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}
