"""table_test.py API_DIR: mistakes in the table stop the build with a message that says what to write."""
import shutil
import subprocess
import sys
import tempfile

SOURCE = sys.argv[1]
FILES = ["facts-13.0.json", "exports-580.txt", "procaddr-580.csv", "driver.toml", "driver_more.toml", "opcodes.lock", "generate.py"]


def generate(edit):
    """Runs the generator on a copy of the tables that `edit` changed; returns its complaint, or None."""
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            shutil.copy(f"{SOURCE}/{name}", folder)
        shutil.copytree(f"{SOURCE}/gen", f"{folder}/gen")
        edit(folder)
        run = subprocess.run([sys.executable, f"{folder}/generate.py", "--out", f"{folder}/out"], capture_output=True, text=True)
        return run.stderr.strip() if run.returncode else None


def change(file, old, new):
    def edit(folder):
        with open(f"{folder}/{file}") as f:
            text = f.read()
        assert old in text, f"{old} is not in {file}"
        with open(f"{folder}/{file}", "w") as f:
            f.write(text.replace(old, new, 1))
    return edit


def drop_lock_line(start):
    def edit(folder):
        with open(f"{folder}/opcodes.lock") as f:
            lines = f.readlines()
        assert any(line.startswith(start) for line in lines), start
        with open(f"{folder}/opcodes.lock", "w") as f:
            f.writelines(line for line in lines if not line.startswith(start))
    return edit


CASES = [
    ("a function without a row", change("driver_more.toml", "cuGraphNodeGetType = ", "cuNothing = "), "no row for: cuGraphNodeGetType"),
    ("a row of a function that does not exist", change("driver_more.toml", "cuGraphDestroyNode = ",
     'cuNoSuch = { carry = "deny", reason = "x" }\ncuGraphDestroyNode = '), "[cuNoSuch]: the driver exports no such function"),
    ("a row twice", change("driver_more.toml", "cuGraphDestroyNode = ",
     'cuInit = { carry = "local" }\ncuGraphDestroyNode = '), "[cuInit] is also in"),
    ("a parameter nobody judged", change("driver_more.toml", 'cuGraphNodeGetType = { carry = "call", params = { type = "out" } }',
     'cuGraphNodeGetType = { carry = "call" }'), 'Write params = { type = "KIND" }'),
    ("a parameter that does not exist", change("driver_more.toml", 'cuGraphNodeGetType = { carry = "call", params = { type = "out" } }',
     'cuGraphNodeGetType = { carry = "call", params = { typo = "out" } }'), "has no such parameter; it has hNode, type"),
    ("an array without its counter", change("driver_more.toml", 'nodes = "out_handles[*numNodes]"', 'nodes = "out_handles[*count]"'),
     "there is no parameter count"),
    ("a deny row without a reason", change("driver_more.toml", "cuGraphDebugDotPrint = ",
     'cuGraphDebugDotPrint = { carry = "deny" }\nunused = '), 'needs reason = '),
    ("a post that answers", change("driver_more.toml", 'cuGraphNodeGetType = { carry = "call"', 'cuGraphNodeGetType = { carry = "post"'),
     'use carry = "call"'),
    ("a pointer in a struct nobody judged", change("driver_more.toml", 'zero = ["win32SecurityAttributes"]', ""), "win32SecurityAttributes"),
    ("an opcode that is not locked", drop_lock_line("call cuCtxSetLimit "), "opcodes.lock lacks cuCtxSetLimit"),
    ("a field that is not locked", drop_lock_line("in cuCtxSetLimit "), "opcodes.lock lacks cuCtxSetLimit.limit"),
    ("a field that changed its type", change("opcodes.lock", "in cuCtxSetLimit 1 limit uint32", "in cuCtxSetLimit 1 limit string"),
     "is locked as string"),
]

failures = []
if generate(lambda folder: None) is not None:
    failures.append(f"the tables as they are: {generate(lambda folder: None)}")
for title, edit, expected in CASES:
    complaint = generate(edit)
    if complaint is None or expected not in complaint or "Traceback" in complaint:
        failures.append(f"{title}: expected a complaint with '{expected}', got: {complaint}")
if failures:
    sys.exit("\n".join(failures))
print(f"{len(CASES)} mistakes explained")
