"""What an export is at."""

from tfrs_twotower.publishing import progress


def test_what_has_ended_stays_with_its_seconds(capsys, monkeypatch):
    now_s = 1.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s)

    with progress.told_steps(True) as begin:
        begin("query_tower")
        now_s = 3.5
        begin("retrieval: tuning its index")
        now_s = 4.0

    assert capsys.readouterr().err.splitlines() == [
        "query_tower  2.5 s",
        "retrieval: tuning its index  0.5 s",
    ]
