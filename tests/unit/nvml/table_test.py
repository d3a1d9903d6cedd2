"""table_test.py FOLDER: mistakes in nvml.toml stop the build, with a sentence that names the row."""
import pathlib
import shutil
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(sys.argv[1])
MISTAKES = {
    ('nvmlDeviceGetName = "fact"\n', ""): "nvmlDeviceGetName has no row",
    ('nvmlDeviceGetName = "fact"', 'nvmlDeviceGetName = "facts"'): "nvmlDeviceGetName: 'facts' is neither",
    ('nvmlDeviceGetName = "fact"', 'nvmlDeviceGetName = "fact"\nnvmlDeviceGetNames = "hand"'): "nvmlDeviceGetNames: abi-13.json has no such function",
    ('nvmlInit = "as nvmlInit_v2"', 'nvmlInit = "as nvmlInit_v3"'): "nvmlInit: there is no function nvmlInit_v3",
    ('nvmlDeviceGetCount = "as nvmlDeviceGetCount_v2"', 'nvmlDeviceGetCount = "as nvmlDeviceGetName"'): "nvmlDeviceGetCount and nvmlDeviceGetName have different signatures",
    ('nvmlDeviceGetFanSpeed_v2 = { how = "sampled", values = { fan = 8 } }', 'nvmlDeviceGetFanSpeed_v2 = "sampled"'): "nvmlDeviceGetFanSpeed_v2: which values of fan",
}


def generate(folder):
    return subprocess.run([sys.executable, str(folder / "nvml" / "generate.py"), "--out", str(folder / "out")], capture_output=True, text=True)


with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    shutil.copytree(SOURCE, folder / "nvml")
    shutil.copytree(SOURCE.parent / "api" / "gen", folder / "api" / "gen")
    table = (folder / "nvml" / "nvml.toml").read_text()
    done = generate(folder)
    if done.returncode:
        sys.exit(f"the table as it is does not pass: {done.stderr}")
    for (old, new), expected in MISTAKES.items():
        if old not in table:
            sys.exit(f"this test is out of date: the table has no {old!r}")
        (folder / "nvml" / "nvml.toml").write_text(table.replace(old, new, 1))
        done = generate(folder)
        if done.returncode == 0 or expected not in done.stderr:
            sys.exit(f"{new!r}: expected {expected!r}, got status {done.returncode}: {done.stderr}")
print(f"{len(MISTAKES)} mistakes are explained")
