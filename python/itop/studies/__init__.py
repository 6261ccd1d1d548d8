"""Many runs that answer one question: grids, the paper's studies by name, and their reports.

``run_sweep(plan_grid(...), folder)`` trains them, ``write_study_report(folder)`` says what came of it.
"""
