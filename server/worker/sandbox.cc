// The client's bytes go to a closed-source driver of millions of lines, so the process that runs it must be worth
// little to whoever takes it over: no privileges, nothing to execute, no way to other processes or to the network, no
// way further into the kernel than a CUDA program has. The filter is a list of what is forbidden, because the driver's
// own needs (ioctl on /dev/nvidia*, mmap, futex, threads, eventfd, unix sockets) change from release to release, while
// what it never needs does not. Forbidden calls fail with EPERM, so that a driver that tries one anyway can go on.
#include "server/worker/sandbox.h"

#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>

namespace bf::server {
namespace {

constexpr rlim_t kOpenFiles = 8192;   // the driver holds hundreds per GPU, a session a dozen
constexpr rlim_t kProcesses = 65536;  // threads of all workers of this user: 512 sessions with 100 lanes each

std::optional<unsigned> number(const char* variable) {
  const char* text = getenv(variable);
  if (!text || !*text) return std::nullopt;
  return unsigned(strtoul(text, nullptr, 10));
}

Status change_user() {
  const auto uid = number("BF_WORKER_UID");
  const auto gid = number("BF_WORKER_GID");
  if (!uid || !gid) return {};
  // Groups first: after setuid nothing of this is allowed any more. glibc changes all threads.
  if (setgroups(0, nullptr) < 0) return errno_status("dropping supplementary groups", errno);
  if (setresgid(*gid, *gid, *gid) < 0) return errno_status("taking the worker's group", errno);
  if (setresuid(*uid, *uid, *uid) < 0) return errno_status("taking the worker's user", errno);
  return {};
}

Status limit(int resource, rlim_t most, const char* what) {
  rlimit now{};
  if (getrlimit(__rlimit_resource_t(resource), &now) < 0) return errno_status(what, errno);
  now.rlim_max = std::min(now.rlim_max, most);
  now.rlim_cur = now.rlim_max;
  if (setrlimit(__rlimit_resource_t(resource), &now) < 0) return errno_status(what, errno);
  return {};
}

constexpr int kForbidden[] = {
    // Other programs: the worker is the last program of its process.
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(fork),
    SCMP_SYS(vfork),
    // Other processes of this user, which are other people's sessions.
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(process_madvise),
    SCMP_SYS(kcmp),
    SCMP_SYS(pidfd_open),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(pidfd_send_signal),
    SCMP_SYS(kill),
    SCMP_SYS(tkill),
    SCMP_SYS(rt_sigqueueinfo),
    SCMP_SYS(migrate_pages),
    SCMP_SYS(move_pages),
    // Privileges and identities.
    SCMP_SYS(setuid),
    SCMP_SYS(setgid),
    SCMP_SYS(setreuid),
    SCMP_SYS(setregid),
    SCMP_SYS(setresuid),
    SCMP_SYS(setresgid),
    SCMP_SYS(setfsuid),
    SCMP_SYS(setfsgid),
    SCMP_SYS(setgroups),
    SCMP_SYS(capset),
    // Namespaces and mounts: user namespaces are the usual way into kernel code that expects root.
    SCMP_SYS(unshare),
    SCMP_SYS(setns),
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(pivot_root),
    SCMP_SYS(chroot),
    SCMP_SYS(move_mount),
    SCMP_SYS(open_tree),
    SCMP_SYS(fsopen),
    SCMP_SYS(fsconfig),
    SCMP_SYS(fsmount),
    SCMP_SYS(fspick),
    SCMP_SYS(mount_setattr),
    SCMP_SYS(quotactl),
    SCMP_SYS(swapon),
    SCMP_SYS(swapoff),
    // Large or privileged pieces of the kernel that no CUDA program needs.
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(io_uring_register),
    SCMP_SYS(add_key),
    SCMP_SYS(request_key),
    SCMP_SYS(keyctl),
    SCMP_SYS(kexec_load),
    SCMP_SYS(kexec_file_load),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(delete_module),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(name_to_handle_at),
    SCMP_SYS(fanotify_init),
    SCMP_SYS(iopl),
    SCMP_SYS(ioperm),
    SCMP_SYS(modify_ldt),
    SCMP_SYS(acct),
    SCMP_SYS(syslog),
    SCMP_SYS(reboot),
    SCMP_SYS(sethostname),
    SCMP_SYS(setdomainname),
    SCMP_SYS(settimeofday),
    SCMP_SYS(clock_settime),
    SCMP_SYS(clock_adjtime),
    SCMP_SYS(adjtimex),
    SCMP_SYS(vhangup),
    // Nobody connects to a worker.
    SCMP_SYS(listen),
    SCMP_SYS(accept),
    SCMP_SYS(accept4),
};

Status filter_system_calls() {
  const std::unique_ptr<void, void (*)(scmp_filter_ctx)> filter(seccomp_init(SCMP_ACT_ALLOW), seccomp_release);
  if (!filter) return Status(StatusCode::kInternal, "libseccomp gives no filter");
  const auto fail = [](int error) { return errno_status("filtering system calls", -error); };
  // All threads: the driver has started some.
  if (int error = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1)) return fail(error);
  const auto forbid = SCMP_ACT_ERRNO(EPERM);
  for (const int call : kForbidden) {
    if (call < 0) continue;  // not a system call of this architecture
    if (int error = seccomp_rule_add(filter.get(), forbid, call, 0)) return fail(error);
  }
  // Threads yes, processes no. clone3 hides its flags in memory; without it glibc uses clone.
  if (int error =
          seccomp_rule_add(filter.get(), forbid, SCMP_SYS(clone), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0))) {
    return fail(error);
  }
  if (int error = seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0)) return fail(error);
  // The sockets of the session came from bfserver. The driver may talk to its own daemons over unix sockets.
  if (int error = seccomp_rule_add(filter.get(), forbid, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_NE, AF_UNIX)))
    return fail(error);
  if (int error = seccomp_load(filter.get())) return fail(error);
  return {};
}

}  // namespace

Status enter_sandbox() {
  const pid_t parent = getppid();
  BF_RETURN_IF_ERROR(change_user());
  // No set-uid program and no file capability gives anything back; also what lets everybody install a filter.
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return errno_status("giving up new privileges", errno);
  // A worker without its bfserver has nobody to account for it. After the change of user, which clears this.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) return errno_status("tying the worker to bfserver", errno);
  if (getppid() != parent) return Status(StatusCode::kUnavailable, "bfserver is gone");
  // Other workers of this user must not read this one's memory through /proc.
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return errno_status("closing /proc to others", errno);
  BF_RETURN_IF_ERROR(limit(RLIMIT_CORE, 0, "forbidding core files"));  // a core would hold the client's data
  BF_RETURN_IF_ERROR(limit(RLIMIT_NOFILE, kOpenFiles, "limiting open files"));
  BF_RETURN_IF_ERROR(limit(RLIMIT_NPROC, kProcesses, "limiting threads"));
  return filter_system_calls();
}

}  // namespace bf::server
