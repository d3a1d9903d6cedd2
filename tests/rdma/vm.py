#!/usr/bin/env python3
"""Runs a command in a small virtual machine with Soft-RoCE: real verbs, without RDMA hardware and without a module in
this machine's kernel. The VM is qemu under plain emulation with Debian's stock kernel, fetched by `apt-get download` and
unpacked, never installed. It sees this machine's files read-only and has scratch space of its own.

  vm.py --cache FOLDER [--memory MIB] [--timeout S] -- COMMAND ...

COMMAND runs as root inside, in the directory this was called in, with a private /tmp, /dev/infiniband and no network but
what it makes itself. Its output is this program's output, its exit status this program's. 77: no VM is to be had here.
"""

import argparse
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time

SKIPPED = 77
BROKEN = 70  # the VM ended without an answer
# What the kernel image of a distribution does not hold itself: the way to our files, and RDMA over Ethernet.
MODULES = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "crc32_generic", "veth", "sch_netem", "sch_ingress", "cls_u32", "act_gact", "rdma_rxe", "ib_uverbs", "rdma_ucm"]
MARK = "bf-vm-status"

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /host /scratch
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
for module in $($B cat /modules); do $B insmod /lib/$module || echo "$module: not loaded"; done
$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro files /host || $B poweroff -f
$B mount -t tmpfs scratch /scratch
$B mkdir -p /scratch/upper /scratch/work /scratch/root
$B mount -t overlay -o lowerdir=/host,upperdir=/scratch/upper,workdir=/scratch/work root /scratch/root
R=/scratch/root
for folder in proc sys dev; do $B mount --bind /$folder $R/$folder; done
$B mkdir -p $R/dev/shm $R/tmp; $B mount -t tmpfs shm $R/dev/shm; $B mount -t tmpfs tmp $R/tmp; $B mount -t tmpfs run $R/run
ulimit -l unlimited
$B ip link set lo up
$B cp /command $R/tmp/command
$B chroot $R /bin/bash /tmp/command </dev/null
status=$?
echo; echo "bf-vm-status $status"
$B poweroff -f
"""


def fail(text):
    print(f"vm.py: {text}", file=sys.stderr)


def tool_missing():
    for tool, package in (("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("cpio", "cpio"),
                          ("modprobe", "kmod"), ("dpkg", "dpkg")):
        if not shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            return f"{tool} is missing (apt-get install {package})"
    return ""


def kernel(cache):
    """The folder of an unpacked kernel package, or None with the reason."""
    for ready in sorted(cache.glob("kernel-*/ready")):
        return ready.parent, ""
    def newest():
        listed = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True)
        return re.search(r"Depends: (linux-image-[\w.+-]+)", listed.stdout)

    package = newest()
    if not package and os.getuid() == 0:  # images of containers come without lists
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True)
        package = newest()
    if not package:
        return None, "no package linux-image-amd64 in this machine's apt sources (run apt-get update; Debian 12 has it)"
    folder = cache / f"kernel-{package.group(1)}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fetched = subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package.group(1)], cwd=folder, capture_output=True, text=True)
    debs = list(folder.glob("*.deb"))
    if fetched.returncode or not debs:
        return None, f"cannot download {package.group(1)}: {fetched.stderr.strip()[-200:]}"
    subprocess.run(["dpkg", "-x", debs[0], folder], check=True)
    debs[0].unlink()
    (folder / "ready").touch()
    return folder, ""


def with_dependencies(modules_folder, wanted):
    """Paths of module files in loading order."""
    depends = {}
    for line in (modules_folder / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        depends[pathlib.PurePath(path).name.split(".ko")[0].replace("-", "_")] = (path, needs.split())
    ordered = []

    def add(name):
        path, needs = depends[name]
        for need in needs:
            add(pathlib.PurePath(need).name.split(".ko")[0].replace("-", "_"))
        if path not in ordered:
            ordered.append(path)

    for name in wanted:
        add(name.replace("-", "_"))
    return ordered


def make_initrd(kernel_folder, command, work):
    version = next((kernel_folder / "lib/modules").iterdir())
    if not (version / "modules.dep").exists():
        subprocess.run(["depmod", "-b", kernel_folder, version.name], check=True, env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})
    root = work / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin/busybox")
    modules = with_dependencies(version, MODULES)
    for module in modules:
        (root / "lib" / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(version / module, root / "lib" / module)
    (root / "modules").write_text("\n".join(modules) + "\n")
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    (root / "command").write_text(command)
    with open(work / "initrd.gz", "wb") as out:
        find = subprocess.Popen(["find", "."], cwd=root, stdout=subprocess.PIPE)
        cpio = subprocess.Popen(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, stdin=find.stdout, stdout=subprocess.PIPE)
        subprocess.run(["gzip", "-1"], stdin=cpio.stdout, stdout=out, check=True)
    return next((kernel_folder / "boot").glob("vmlinuz-*")), work / "initrd.gz"


def run(arguments):
    missing = tool_missing()
    if missing:
        fail(f"skipped: {missing}")
        return SKIPPED
    folder, why = kernel(arguments.cache)
    if folder is None:
        fail(f"skipped: {why}")
        return SKIPPED
    command = f"cd {shlex.quote(os.getcwd())}\nexport PATH={shlex.quote(os.environ['PATH'] + ':/usr/sbin:/sbin')} HOME=/root\nexec {shlex.join(arguments.command)}\n"
    with tempfile.TemporaryDirectory() as work:
        image, initrd = make_initrd(folder, command, pathlib.Path(work))
        # Without what real processors do fast and an emulated one slowly: copying bytes one by one (erms), a fifth level of page
        # tables (la57), a switch around each access to a process's memory (smap). The time stamp counter is this machine's own:
        # the kernel may read it, and need not ask an emulated clock (tsc=reliable).
        qemu = ["qemu-system-x86_64", "-accel", "tcg,thread=multi",
                "-cpu", "max,erms=off,la57=off,smap=off", "-smp", "2", "-m", str(arguments.memory), "-display", "none", "-vga", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-nic", "none",
                "-virtfs", "local,path=/,mount_tag=files,security_model=none,readonly=on,multidevs=remap",
                "-kernel", str(image), "-initrd", str(initrd),
                "-append", "console=ttyS0 quiet panic=-1 rdinit=/init mitigations=off tsc=reliable"]
        process = subprocess.Popen(qemu, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        status = BROKEN
        deadline = time.monotonic() + arguments.timeout
        timer = threading.Timer(arguments.timeout, process.kill)
        timer.start()
        for line in process.stdout:
            text = line.decode(errors="replace").rstrip("\r\n")
            if MARK in text:
                status = int(text.split()[-1])
            else:
                print(text, flush=True)
        process.wait()
        timer.cancel()
        if status == BROKEN:
            fail("the VM took too long" if time.monotonic() >= deadline else "the VM ended without an answer")
        return status


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=pathlib.Path, required=True, help="where the kernel is kept between runs")
    parser.add_argument("--memory", type=int, default=2048, help="of the VM, in MiB")
    parser.add_argument("--timeout", type=int, default=600, help="seconds")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
