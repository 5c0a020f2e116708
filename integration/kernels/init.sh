#!/bin/busybox sh
# The first program of a guest: mounts the root disk, the sources and the kernel's modules, and
# starts what the kernel's command line has as guest=.
export PATH=/bin
/bin/busybox --install /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in /modules/*; do
	insmod "$module" || echo "insmod $module failed"
done
ln -s /dev/vport*p1 /dev/host
until [ -b /dev/vda ]; do sleep 0.1; done
share() {
	mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,ro,msize=262144 "$1" "/root/$2"
}
mount -t ext4 /dev/vda /root && share src src && share modules usr/lib/modules || poweroff -f
guest=$(sed 's/.*guest=\([^ ]*\).*/\1/' /proc/cmdline)
mount -o move /dev /root/dev
umount /proc
exec switch_root /root "$guest"
