#!/bin/sh
# machine.sh DIRECTORY: makes what guests need, once: Debian's kernels, an initial RAM disk for each, and a root disk
# for each architecture. All packages come from where the machine's apt gets Debian's.
set -eu
dir=$1
here=$(dirname "$0")
for input in machine.sh init.sh guest.service; do
	cmp -s "$here/$input" "$dir/$input" || missing=yes
done
[ "${missing-}" ] || exit 0
rm -rf "$dir"
mkdir -p "$dir"

run() { # LOG COMMAND ...: prints the end of what a command says if it fails
	log=$dir/$1.log
	shift
	"$@" >"$log" 2>&1 || { echo "$*:" && tail "$log" && exit 1; }
}

sources() { # PREFIX
	apt-get indextargets --format "$1"' $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian'
}

unpack() { # PACKAGE DIRECTORY
	run download sh -c 'cd "$1" && apt-get download -qq "$2"' - "$dir" "$1"
	dpkg -x "$dir/$1"_*.deb "$2"
	rm "$dir/$1"_*.deb
}

kernel() { # DIRECTORY META-PACKAGE
	kernel=$dir/$1
	unpack "$(apt-cache depends "$2" | awk '/Depends/ { print $2; exit }')" "$kernel"
	mv "$kernel"/boot/vmlinuz-* "$kernel/vmlinuz"
	release=$(ls "$kernel/lib/modules")
	depmod -b "$kernel" "$release"

	ram=$kernel/ram
	unpack busybox-static "$ram"
	mkdir "$ram/modules" "$ram/dev" "$ram/proc" "$ram/root"
	ln -s busybox "$ram/bin/sh"
	cp "$here/init.sh" "$ram/init"
	number=100
	for module in virtio_pci virtio_blk virtio_console ext4 9pnet_virtio 9p; do
		modprobe -d "$kernel" -S "$release" --show-depends "$module"
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
		number=$((number + 1))
		case $file in
		*.xz) xz -dc "$file" >"$ram/modules/$number" ;;
		*) cp "$file" "$ram/modules/$number" ;;
		esac
	done
	(cd "$ram" && find . | "$dir/6.1/ram/bin/busybox" cpio -o -H newc 2>/dev/null) >"$kernel/ram.cpio"
}

disk() { # ROOT FILE
	mkdir -p "$1/src" "$1/usr/lib/modules" "$1/proc" "$1/sys" "$1/dev" "$1/run" "$1/tmp"
	truncate -s 2G "$2"
	mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$1" "$2"
	rm -r "$1"
}

run update apt-get update -qq
kernel 6.1 linux-image-amd64
kernel 6.12 linux-image-6.12-amd64

# Programs that the tests compare with, and the daemons that a node may run. Tests start those themselves.
packages=kmod,iproute2,iputils-ping,nftables,iptables,conntrack,tcpdump,ethtool,strace,ipvsadm,wireguard-tools
packages=$packages,systemd-sysv,udev,dbus,libpam-systemd,network-manager,firewalld
root=$dir/root
sources deb | run packages mmdebstrap --mode=root --variant=apt --include=$packages --dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' bookworm "$root" -
cp "$here/guest.service" "$root/etc/systemd/system"
echo guest >"$root/etc/hostname"
for change in 'enable guest' 'disable NetworkManager firewalld wpa_supplicant' 'set-default multi-user.target' \
	'mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer'; do
	run systemctl chroot "$root" systemctl -q $change
done
disk "$root" "$dir/amd64.ext4"

# The other architecture has only what the plugins need. A configuration of its own has apt take its packages.
mkdir -p "$dir/apt/lists/partial" "$dir/apt/archives/partial"
sources 'deb [arch=arm64]' >"$dir/apt/sources"
: >"$dir/apt/status"
cat >"$dir/apt/conf" <<-END
	APT::Architecture "arm64";
	APT::Architectures "arm64";
	Dir::Etc::SourceList "$dir/apt/sources";
	Dir::Etc::SourceParts "/dev/null";
	Dir::State::Lists "$dir/apt/lists";
	Dir::State::Status "$dir/apt/status";
	Dir::Cache "$dir/apt";
END
export APT_CONFIG=$dir/apt/conf
run update apt-get update -qq
kernel 6.1-arm64 linux-image-arm64
unpack busybox-static "$root"
for program in $("$dir/6.1/ram/bin/busybox" --list); do
	ln -s busybox "$root/bin/$program" 2>/dev/null || true # busybox itself
done
ln -s bin "$root/sbin"
ln -s usr/lib "$root/lib"
disk "$root" "$dir/arm64.ext4"

rm -r "$dir/apt" "$dir"/*/ram
cp "$here/machine.sh" "$here/init.sh" "$here/guest.service" "$dir"
