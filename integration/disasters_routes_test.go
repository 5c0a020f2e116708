package integration

// routeDisasters are those of the link's table. Packets that it has no route for
// walk on, and leave by the primary link.
func routeDisasters() []disaster {
	const closing = "default metric 4278198272 table TABLE"
	var all []disaster
	for family, flags := range ofFamilies {
		all = append(all,
			disaster{
				name: "table flushed, " + family, leaks: true,
				do: run(inFamilies(flags, "ip -FAMILY route flush table TABLE")...),
			},
			disaster{
				name: "table flushed, no cluster networks configured, " + family, leaks: true, config: object{"clusterCIDRs": nil},
				do: run(inFamilies(flags, "ip -FAMILY route flush table TABLE")...),
			},
			disaster{
				name: "closing route deleted, " + family,
				do:   run(inFamilies(flags, "ip -FAMILY route del unreachable "+closing)...),
			},
			disaster{
				name: "closing route is another, " + family,
				do: run(inFamilies(flags, "ip -FAMILY route del unreachable "+closing,
					"ip -FAMILY route add blackhole "+closing+" proto kernel")...),
			},
			disaster{
				name: "closing route and default deleted, " + family, leaks: true,
				do: run(inFamilies(flags, "ip -FAMILY route del unreachable "+closing, "ip -FAMILY route del unicast default table TABLE")...),
			},
			disaster{
				name: "default deleted, " + family,
				do:   run(inFamilies(flags, "ip -FAMILY route del unicast default table TABLE")...),
			},
			disaster{
				name: "routes deleted but closing one, " + family,
				do:   run(inFamilies(flags, "ip -FAMILY route flush table TABLE type unicast", "ip -FAMILY route flush table TABLE type throw")...),
			},
		)
	}
	return append(all,
		disaster{
			name: "throws deleted",
			do: run("ip route del throw 10.96.0.0/12 table TABLE", "ip route del throw 10.244.1.5 table TABLE",
				"ip -6 route del throw fd00:10:244::/56 table TABLE", "ip -6 route del throw fd00:10:244::5 table TABLE"),
		},
		disaster{
			name: "link's network deleted",
			do:   run("ip route del 192.168.124.0/24 table TABLE", "ip -6 route del fd00:124::/64 table TABLE"),
		},
		disaster{
			name: "throw is a unicast route",
			do: run("ip route replace 10.96.0.0/12 via 192.168.124.1 table TABLE proto kernel", "ip -6 route del throw fd00:10:244::/56 table TABLE",
				"ip -6 route add fd00:10:244::/56 via fd00:124::1 table TABLE proto kernel"),
		},
		disaster{
			name: "default is another",
			do: run("ip route replace default via 192.168.124.77 metric 200 table TABLE proto kernel",
				"ip -6 route del unicast default table TABLE", "ip -6 route add default via fd00:124::77 metric 2048 table TABLE proto kernel"),
		},
		disaster{
			name: "default is somebody else's",
			do: run("ip route replace default via 192.168.124.77 metric 200 table TABLE",
				"ip -6 route del unicast default table TABLE", "ip -6 route add default via fd00:124::77 metric 2048 table TABLE"),
		},
		disaster{
			name: "closing route is somebody else's",
			do: run("ip route del unreachable "+closing, "ip route add blackhole "+closing,
				"ip -6 route del unreachable "+closing, "ip -6 route add blackhole "+closing),
		},
		disaster{
			name: "routes of ours that nothing needs", leaks: true,
			do: run(
				"ip route add 198.51.100.0/24 via 192.168.124.1 table TABLE proto kernel",
				"ip route add throw 203.0.113.0/24 table TABLE proto kernel",
				"ip -6 route add 2001:db8:51::/64 via fd00:124::1 table TABLE proto kernel",
				"ip -6 route add throw 2001:db8:80::/64 table TABLE proto kernel"),
		},
		disaster{
			name: "routes of ours by another link", leaks: true,
			do: run(
				"ip route add 203.0.113.0/24 via 192.0.2.1 dev eth0 table TABLE proto kernel",
				"ip -6 route add 2001:db8:80::/64 via 2001:db8:1::1 dev eth0 table TABLE proto kernel"),
		},
		disaster{
			name: "other tables of ours",
			do: run(inFamilies([]string{"-4", "-6"},
				"ip -FAMILY route add unreachable default metric 4278198272 table 1099 proto kernel",
				"ip -FAMILY route add unreachable default metric 4278198272 table 1098 proto kernel",
				"ip -FAMILY route add throw default metric 7 table 1098 proto kernel")...),
		},
	)
}
