#!/usr/bin/env python3
"""How the runner judges: tests of results.py, and of run.py's budget, with runs made up here."""

import contextlib
import io
import pathlib
import sys
import time
import types
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]
import harness
import jobs
import programs
import results
import run as runner


def job(**settings):
    return jobs.Job("job", ["true"], {**programs.DEFAULTS, **settings})


def ran(stdout, status=0, stderr=""):
    return harness.Run(status, stdout.encode(), stderr.encode(), 0.1)


class Judging(unittest.TestCase):
    def remote(self, remote, native, again=None, strict=False):
        judged = job()
        judged.strict = strict
        return [row[:2] for row in results.judge_remote(judged, remote, native, lambda: again or native)]

    def test_a_native_run_passes_fails_and_skips_by_case(self):
        rows = results.judge_native(job(), ran("case a: right 1\ncase b: WRONG 2\ncase c: skipped: no\nchatter\ncase d: FAILED Error: x\n"))
        self.assertEqual([row[:2] for row in rows], [("a", "pass"), ("b", "FAIL"), ("c", "skip"), ("d", "FAIL")])

    def test_a_wrong_status_fails_and_77_skips(self):
        self.assertEqual(results.judge_native(job(), ran("case a: 1\n", status=3))[-1][:2], ("", "FAIL"))
        self.assertEqual(results.judge_native(job(status=3), ran("", status=3)), [("", "pass", "")])
        self.assertEqual(results.judge_native(job(), ran("skipped: why\n", status=77)), [("", "skip", "skipped: why")])

    def test_cases_are_compared_one_by_one(self):
        native = ran("case a: 0x1p+1 7\ncase b: 1\ncase c: 2\n")
        self.assertEqual(self.remote(ran("case a: 0x1p+1 8\ncase b: 1\n", status=1), native), [("a", "FAIL"), ("b", "pass"), ("c", "FAIL"), ("", "FAIL")])
        self.assertEqual(self.remote(native, native), [("a", "pass"), ("b", "pass"), ("c", "pass")])

    def test_a_name_that_comes_again_is_a_case_of_its_own(self):
        twice = ran("case a: 1\ncase a: 2\n")
        self.assertEqual(self.remote(twice, twice), [("a", "pass"), ("a (2)", "pass")])

    def test_a_case_that_only_bfrun_reached_fails(self):
        self.assertEqual(self.remote(ran("case a: 1\ncase b: 1\n"), ran("case a: 1\n")), [("a", "pass"), ("b", "FAIL")])

    def test_what_two_native_runs_disagree_about_proves_nothing(self):
        self.assertEqual(self.remote(ran("case a: 3\n"), ran("case a: 1\n"), again=ran("case a: 2\n")), [("a", "skip")])
        self.assertEqual(self.remote(ran("case a: 3\n"), ran("case a: 1\n"), again=ran("", status="timeout")), [("a", "FAIL")])

    def test_the_same_failure_on_both_sides_is_no_success(self):
        self.assertEqual(self.remote(ran("case a: FAILED x\n"), ran("case a: FAILED x\n")), [("a", "skip")])

    def test_programs_without_cases_must_print_the_same_but_for_our_log(self):
        native, log = ran("x\n", stderr="note\n"), "12:00:00.123 backfield[7] warn: something\n"
        self.assertEqual(self.remote(ran("x\n", stderr=log + "note\n"), native, strict=True), [("", "pass")])
        self.assertEqual(self.remote(ran("x\n", stderr="other\n"), native, strict=True), [("", "FAIL")])
        self.assertEqual(self.remote(ran("y\n", stderr="note\n"), native, strict=True), [("", "FAIL")])

    def test_the_difference_names_the_first_word(self):
        self.assertIn("word 2 of 3: got [8 9]", results.first_difference("1 8 9", "1 7 9"))


class Budget(unittest.TestCase):
    def rows(self, budget, command, timeout=60, absent=""):
        found = results.Results()
        server = types.SimpleNamespace(run=lambda *_, **__: ran(""))
        one = runner.Runner(types.SimpleNamespace(software=None), server, found, ["tcp"], budget, software=False)
        with contextlib.redirect_stdout(io.StringIO()):
            one.run_all([jobs.Job("job", command, {**programs.DEFAULTS, "timeout": timeout}, absent=absent)], 2)
        return [(row["path"], row["verdict"]) for row in found.rows]

    def test_within_it_all_paths_run(self):
        self.assertEqual(self.rows(60, ["true"]), [("native", "pass"), ("tcp", "pass")])

    def test_spent_nothing_is_begun(self):
        self.assertEqual(self.rows(0, ["true"]), [("native", "skip"), ("tcp", "skip")])

    def test_what_it_cuts_off_is_no_failure_but_a_hang_is(self):
        start = time.monotonic()
        self.assertEqual(self.rows(runner.NO_TIME + 1, ["sleep", "60"]), [("native", "skip"), ("tcp", "skip")])
        self.assertLess(time.monotonic() - start, 30)
        self.assertEqual(self.rows(60, ["sleep", "60"], timeout=0.5), [("native", "FAIL")])

    def test_a_missing_need_and_a_missing_program_are_told(self):
        self.assertEqual(self.rows(60, ["true"], absent="no torch"), [("native", "skip")])
        self.assertEqual(self.rows(60, ["/nonexistent"]), [("-", "FAIL")])


if __name__ == "__main__":
    unittest.main()
