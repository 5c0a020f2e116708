package nettest

import (
	"os"
	"strconv"
	"time"
)

// slowness is how many times as long as on the machines that tests were written for things take on this one: in a
// guest whose processor is emulated, for example.
var slowness = parseSlowness(os.Getenv("EGRESS_IP_TEST_SLOWNESS"))

func parseSlowness(value string) time.Duration {
	if n, err := strconv.ParseUint(value, 10, 8); err == nil && n > 0 {
		return time.Duration(n)
	}
	return 1
}

// Within is the deadline for what takes less than d on the machines that tests were written for. It is longer where
// the environment's EGRESS_IP_TEST_SLOWNESS says so. What waits for something uses it; what waits for the absence of
// something, and the settings of what is tested, do not.
func Within(d time.Duration) time.Duration { return d * slowness }
