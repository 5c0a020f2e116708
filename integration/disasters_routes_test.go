package integration

// routeDisasters are those of the link's table. Packets that it has no route for
// walk on, and leave by the primary link.
func routeDisasters() []disaster {
	const add, del = "ip -FAMILY route add ", "ip -FAMILY route del "
	const closing = "default metric 4278198272 table TABLE"
	return []disaster{
		{name: "table flushed", do: run("ip -FAMILY route flush table TABLE"), leaks: true},
		{name: "table flushed, IPv4", do: run("ip route flush table TABLE"), leaks: true},
		{name: "table flushed, IPv6", do: run("ip -6 route flush table TABLE"), leaks: true},
		{name: "table flushed, no cluster networks configured", do: run("ip -FAMILY route flush table TABLE"), leaks: true, config: derived},
		{name: "closing route deleted", do: run(del + "unreachable " + closing)},
		{name: "closing route is another", do: run(del+"unreachable "+closing, add+"blackhole "+closing+" proto kernel")},
		{name: "closing route is somebody else's", do: run(del+"unreachable "+closing, add+"blackhole "+closing)},
		{name: "closing route and default deleted", do: run(del+"unreachable "+closing, del+"unicast default table TABLE"), leaks: true},
		{name: "default deleted", do: run(del + "unicast default table TABLE")},
		{
			name: "routes deleted but the closing one",
			do:   run("ip -FAMILY route flush table TABLE type unicast", "ip -FAMILY route flush table TABLE type throw"),
		},
		{
			name: "throws deleted",
			do: run("ip route del throw 10.96.0.0/12 table TABLE", "ip route del throw 10.244.1.5 table TABLE",
				"ip -6 route del throw fd00:10:244::/56 table TABLE", "ip -6 route del throw fd00:10:244::5 table TABLE"),
		},
		{
			name: "link's network deleted",
			do:   run("ip route del 192.168.124.0/24 table TABLE", "ip -6 route del fd00:124::/64 table TABLE"),
		},
		{
			name: "throw is a unicast route",
			do: run("ip route replace 10.96.0.0/12 via 192.168.124.1 table TABLE proto kernel", "ip -6 route del throw fd00:10:244::/56 table TABLE",
				"ip -6 route add fd00:10:244::/56 via fd00:124::1 table TABLE proto kernel"),
		},
		{
			name: "default is another",
			do: run("ip route replace default via 192.168.124.77 metric 200 table TABLE proto kernel",
				"ip -6 route del unicast default table TABLE", "ip -6 route add default via fd00:124::77 metric 2048 table TABLE proto kernel"),
		},
		{
			name: "default is somebody else's",
			do: run("ip route replace default via 192.168.124.77 metric 200 table TABLE",
				"ip -6 route del unicast default table TABLE", "ip -6 route add default via fd00:124::77 metric 2048 table TABLE"),
		},
		{
			name: "default is behind somebody else's",
			do: run("ip route prepend default via 192.168.124.77 metric 200 table TABLE",
				"ip -6 route append default via fd00:124::77 metric 2048 table TABLE"),
		},
		{
			name: "routes of ours that nothing needs", leaks: true,
			do: run(
				"ip route add 198.51.100.0/24 via 192.168.124.1 table TABLE proto kernel",
				"ip route add throw 203.0.113.0/24 table TABLE proto kernel",
				"ip -6 route add 2001:db8:51::/64 via fd00:124::1 table TABLE proto kernel",
				"ip -6 route add throw 2001:db8:80::/64 table TABLE proto kernel"),
		},
		{
			name: "routes of ours by another link", leaks: true,
			do: run(
				"ip route add 203.0.113.0/24 via 192.0.2.1 dev eth0 table TABLE proto kernel",
				"ip -6 route add 2001:db8:80::/64 via 2001:db8:1::1 dev eth0 table TABLE proto kernel"),
		},
		{
			name: "other tables of ours",
			// What makes a table ours comes last: were it removed first, the rest would be nobody's.
			do: run("ip -FAMILY route add unreachable default metric 4278198272 table 1099 proto kernel",
				"ip -FAMILY route add throw default metric 7 table 1098 proto kernel",
				"ip -FAMILY route add unreachable default metric 4278198272 table 1098 proto kernel"),
		},
	}
}
