"""The process's own protection, tried in processes of its own, since none of it can be undone."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux")
TOP = Path(__file__).resolve().parent.parent


def run(script, **options):
    code = f"import resource, os, sys\nfrom proxy import hardening\n{script}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=TOP, **options)


def output(script, **options):
    done = run(script, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_core_dumps():
    """Soft and hard limit are zero."""
    assert output("hardening.harden(); print(*resource.getrlimit(resource.RLIMIT_CORE))") == ["0", "0"]


@linux
def test_the_memory():
    """The process is not dumpable: its /proc files belong to root, and nobody without privileges attaches."""
    script = """
import ctypes
done = hardening.harden()
print(done.core_dumps_off, done.memory_closed, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
    assert output(script) == ["True", "True", "0"]


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_process_of_the_same_user(tmp_path):
    """It cannot read the memory; the process itself still reads what its metrics need."""
    script = """
hardening.harden()
os.setgid(65534); os.setuid(65534)
hardening.harden()  # changing the user does not open it again
pid = os.getpid()
print(len(os.listdir('/proc/self/fd')) > 0, len(open('/proc/self/stat').read()) > 0, flush=True)
if os.fork() == 0:
    try:
        open(f'/proc/{pid}/mem', 'rb')
    except PermissionError:
        print('refused', flush=True)
    os._exit(0)
os.wait()
"""
    done = run(script)
    if "Operation not permitted" in done.stderr:
        pytest.skip("this sandbox does not change users")
    assert done.stdout.split() == ["True", "True", "refused"], done.stderr


@linux
def test_a_crash(tmp_path):
    """It leaves no core file."""
    script = "hardening.harden(); os.abort()"
    done = subprocess.run(
        [sys.executable, "-c", f"import os, sys; sys.path.insert(0, {str(TOP)!r})\nfrom proxy import hardening\n{script}"],
        cwd=tmp_path, capture_output=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == -signal.SIGABRT
    assert list(tmp_path.iterdir()) == []


def test_descriptors():
    """The soft limit becomes the hard one, and the number is told."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    usable = min(hard, 512) if hard != resource.RLIM_INFINITY else 512
    script = f"""
resource.setrlimit(resource.RLIMIT_NOFILE, (64, {usable}))
print(hardening.harden().descriptors, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    assert output(script) == [str(usable)] * 3


def test_descriptors_that_are_enough():
    """Nothing changes."""
    script = """
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if hard != resource.RLIM_INFINITY:
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert hardening.raise_descriptor_limit() == hard
print(hardening.raise_descriptor_limit() > 0)
"""
    assert output(script) == ["True"]


def test_a_second_time():
    """It is safe to call again."""
    assert output("print(hardening.harden() == hardening.harden())") == ["True"]
