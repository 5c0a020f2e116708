#!/bin/sh
# Runs in a guest, as process 1 or as a service of systemd: what the host wants of this boot, a line
# of a plan for each group of tests. Lines that begin with @@ are for the host.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
run=/src/integration/kernels/.run

if [ $$ = 1 ]; then
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	mount -t tmpfs -o mode=755 tmpfs /run
	mkdir -p /run/lock /run/netns /dev/pts /dev/shm
	mount -t devpts devpts /dev/pts
	mount -t tmpfs tmpfs /dev/shm
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	mount -t tmpfs tmpfs /tmp
	mount -t bpf bpf /sys/fs/bpf
	ip link set lo up
	hostname guest
	ulimit -n 65536
	exec >/dev/host 2>&1 </dev/null
fi
dmesg -n 1
echo "@@ kernel $(uname -r)"

programs() { # DIRECTORY: of what tests call, and not from the host each time
	cp -r "$1" /tmp/bin
	export EGRESS_IP_TEST_BIN=/tmp/bin
}

group() { # NAME DIRECTORY COMMAND ...
	group=$1
	echo "@@ begin $group"
	cd "$2" || exit
	shift 2
	"$@" </dev/null
	echo "@@ end $group $?"
}

# What is on the disk is there after a reboot.
boot=$(cat /boots 2>/dev/null || echo 0)
echo $((boot + 1)) >/boots
[ -e $run/plan.$boot ] && . $run/plan.$boot
sync
if [ -e $run/plan.$((boot + 1)) ]; then
	echo "@@ reboot"
	mount -o remount,ro /
	echo b >/proc/sysrq-trigger
else
	echo "@@ off"
	echo o >/proc/sysrq-trigger
fi
sleep 60
