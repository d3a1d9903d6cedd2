# Sourced inside the VM (vm.py): two network interfaces with Soft-RoCE, joined by a cable that can be cut, delayed and
# made to lose packets.
#
#   v0 10.1.0.1 rxe0 ---- 10.1.0.2 v1 rxe1
#
# Both ends stay in the first network namespace: the kernel's Soft-RoCE receives there only. What the kernel would deliver
# to itself is sent over the cable by rules: a packet that leaves for the other end's address goes out of the own device,
# and only what came in is delivered.
sysctl -q kernel.printk="1 1 1 1" net.ipv4.conf.all.rp_filter=0
ip link add v0 type veth peer name v1
for device in v0 v1; do
  sysctl -q net.ipv4.conf.$device.accept_local=1 net.ipv4.conf.$device.rp_filter=0 \
    net.ipv4.conf.$device.arp_ignore=1 net.ipv4.conf.$device.arp_announce=2
done
ip address add 10.1.0.1/32 dev v0
ip address add 10.1.0.2/32 dev v1
ready() {  # how many active ports to wait for
  ip link set v0 up mtu 4200
  ip link set v1 up mtu 4200
  ip neigh replace 10.1.0.2 dev v0 lladdr "$(cat /sys/class/net/v1/address)" nud permanent
  ip neigh replace 10.1.0.1 dev v1 lladdr "$(cat /sys/class/net/v0/address)" nud permanent
  ip route replace 10.1.0.2 dev v0 src 10.1.0.1 table 100
  ip route replace 10.1.0.1 dev v1 src 10.1.0.2 table 100
  until [ "$(rdma link | grep -c 'state ACTIVE')" = "$1" ]; do sleep 0.1; done
}
ready 0
ip rule add pref 1 iif lo lookup 100
ip rule add pref 2 oif v0 lookup 100
ip rule add pref 3 oif v1 lookup 100
ip rule add pref 10 lookup local
ip rule del pref 0
for end in 0 1; do rdma link add rxe$end type rxe netdev v$end; done
ready 2
# True once queue pairs, completion queues, memory regions ... are those that the kernel itself had at first.
at_first=$(rdma resource)
nothing_left() {
  for _ in $(seq 100); do [ "$(rdma resource)" = "$at_first" ] && return; sleep 0.1; done
  echo "left behind:"; rdma resource; rdma resource show qp
  return 1
}
# The cable's faults: netem_on delay 2ms loss 1%; netem_off.
netem_on() { for device in v0 v1; do tc qdisc replace dev $device root netem "$@"; done; }
netem_off() { for device in v0 v1; do tc qdisc del dev $device root; done; }
