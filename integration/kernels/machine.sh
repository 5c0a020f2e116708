#!/bin/sh
# machine.sh DIRECTORY: makes what guests need, once: Debian's kernels 6.1 and 6.12, an initial RAM
# disk for each, and a root disk. All packages come from where the machine's apt gets Debian's.
set -eu
dir=$1
here=$(dirname "$0")
for input in machine.sh init.sh guest.service; do
	cmp -s "$here/$input" "$dir/$input" || made=no
done
[ "${made-}" ] || exit 0
rm -rf "$dir"
mkdir -p "$dir"
apt-get update -qq

kernel() { # VERSION META-PACKAGE
	package=$(apt-cache depends "$2" | awk '/Depends/ { print $2; exit }')
	(cd "$dir" && apt-get download -qq "$package" 2>"$1.log") || { cat "$dir/$1.log"; exit 1; }
	dpkg -x "$dir/$package"_*.deb "$dir/$1"
	rm "$dir/$package"_*.deb
	cp "$dir/$1"/boot/vmlinuz-* "$dir/$1/vmlinuz"
	release=$(ls "$dir/$1/lib/modules")
	depmod -b "$dir/$1" "$release"

	ram=$dir/$1/ram
	mkdir -p "$ram/bin" "$ram/modules" "$ram/dev" "$ram/proc" "$ram/root"
	cp "$(command -v busybox)" "$ram/bin"
	ln -s busybox "$ram/bin/sh"
	cp "$here/init.sh" "$ram/init"
	number=100
	for module in virtio_pci virtio_blk virtio_console ext4 9pnet_virtio 9p; do
		modprobe -d "$dir/$1" -S "$release" --show-depends "$module"
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
		number=$((number + 1))
		case $file in
		*.xz) xz -dc "$file" >"$ram/modules/$number" ;;
		*) cp "$file" "$ram/modules/$number" ;;
		esac
	done
	(cd "$ram" && find . | busybox cpio -o -H newc 2>/dev/null) >"$dir/$1/ram.cpio"
	rm -r "$ram"
}
kernel 6.1 linux-image-amd64
kernel 6.12 linux-image-6.12-amd64

# Programs that the tests compare with, and the daemons that a node may run. Tests start the
# daemons themselves.
packages=kmod,iproute2,iputils-ping,nftables,iptables,conntrack,tcpdump,ethtool,strace,ipvsadm,wireguard-tools
packages=$packages,systemd-sysv,udev,dbus,libpam-systemd,network-manager,firewalld
apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' |
	mmdebstrap --mode=root --variant=apt --include=$packages --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		bookworm "$dir/root" - >"$dir/root.log" 2>&1 || { tail "$dir/root.log"; exit 1; }
cp "$here/guest.service" "$dir/root/etc/systemd/system"
for change in 'enable guest' 'disable NetworkManager firewalld wpa_supplicant e2scrub_reap' \
	'mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-timesyncd systemd-resolved getty@tty1' \
	'set-default multi-user.target'; do
	chroot "$dir/root" systemctl -q $change 2>>"$dir/root.log" || true
done
mkdir -p "$dir/root/src" "$dir/root/lib/modules"
echo guest >"$dir/root/etc/hostname"
truncate -s 2G "$dir/root.ext4"
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$dir/root" "$dir/root.ext4"
rm -r "$dir/root"
cp "$here/machine.sh" "$here/init.sh" "$here/guest.service" "$dir"
