# Installs a Debian package in a copy of this machine, and removes it again: install.sh DEB EXAMPLES
package=$1 examples=$2
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cp "$package" /mnt/root/svcproxy.deb
mount -t proc proc /mnt/root/proc
mount --bind /dev /mnt/root/dev
# An existing installation is not what is tested.
rm -rf /mnt/root/etc/svcproxy
cp -r "$examples" /mnt/root/examples
chroot /mnt/root sh -eu <<'SCRIPT'
# Triggers of other packages, such as an index of all man pages, take long and are not tested.
fail() { echo "$1" >&2; exit 1; }
dpkg --no-triggers --install svcproxy.deb
/usr/bin/svcproxy --version
[ -d /etc/svcproxy/manifests ] || fail "no directory for manifests"
[ -f /usr/share/man/man1/svcproxy.1.gz ] || fail "no man page"
[ -f /usr/share/bash-completion/completions/svcproxy ] || fail "no completions"

# What the unit starts is a program that accepts the flags of the settings.
. /etc/svcproxy/svcproxy.env
/usr/bin/svcproxy plan --manifests /examples/web.yaml --node-ip 172.18.0.1 $SVCPROXY_FLAGS > /plan
grep -q 10.96.0.80:80 /plan || fail "the installed program plans nothing"
if command -v systemd-analyze > /verify; then
    systemd-analyze verify --man=no svcproxy.service 2> /verify || { cat /verify >&2; exit 1; }
    if grep svcproxy.service /verify; then fail "systemd warns about the unit"; fi
fi

# An upgrade keeps the settings, and so does a removal.
echo '# changed' >> /etc/svcproxy/svcproxy.env
dpkg --no-triggers --install svcproxy.deb
grep -q '# changed' /etc/svcproxy/svcproxy.env || fail "an upgrade overwrites the settings"
dpkg --no-triggers --remove svcproxy
[ ! -e /usr/bin/svcproxy ] || fail "a removal leaves the program"
[ ! -e /usr/lib/systemd/system/svcproxy.service ] || fail "a removal leaves the unit"
grep -q '# changed' /etc/svcproxy/svcproxy.env || fail "a removal deletes the settings"
dpkg --no-triggers --purge svcproxy
[ ! -e /etc/svcproxy ] || fail "a purge leaves the settings"
SCRIPT
