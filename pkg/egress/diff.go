package egress

// Missing returns what is in want and not in have, in want's order.
func Missing[T comparable](want, have []T) []T {
	there := make(map[T]struct{}, len(have))
	for _, v := range have {
		there[v] = struct{}{}
	}
	var missing []T
	for _, v := range want {
		if _, ok := there[v]; !ok {
			missing = append(missing, v)
		}
	}
	return missing
}
