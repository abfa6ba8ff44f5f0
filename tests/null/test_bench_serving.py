"""The benchmark of servers: its figures from known times, and its requests."""

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web

from bench.serving import judged, recorded_session, stream_bodies
from bench.serving_load import Answer, fixed, percentile, run, session_figures, stream_figures


def answer(begun: float, arrivals: list[float], ended: float, cached: int = 0) -> Answer:
    return Answer(begun, arrivals, ended, 100, cached, len(arrivals))


def test_figures_of_known_times() -> None:
    title = answer(0.0, [1.0, 2.0], 2.0)
    first = answer(2.0, [12.0, 13.0], 13.0)
    later = answer(13.0, [13.5, 14.0], 14.0, cached=90)
    last = answer(14.0, [14.25, 15.0], 15.0, cached=70)
    found = session_figures([title, first, later, last])
    assert found["ttft_cold_s"] == 10.0
    assert found["ttft_warm_s"] == (0.5 + 0.25) / 2
    assert found["session_s"] == 15.0
    assert found["session_tokens_per_s"] == 4 / (1.0 + 1.0 + 0.5 + 0.75)
    assert found["cached_share"] == 0.8


def test_streams_count_all_tokens_and_the_longest_gaps() -> None:
    found = stream_figures([answer(0.0, [1.0, 2.0, 3.0], 3.0), answer(1.0, [2.0, 4.0], 5.0)])
    assert found == {"streams_2_tokens_per_s": 1.0, "streams_2_p99_gap_s": 2.0}
    assert percentile(list(range(100)), 0.99) == 99
    assert percentile([3.0], 0.99) == 3.0


def test_ratios_are_held_against_what_they_should_reach() -> None:
    ours = {"ttft_cold_s": 1.0, "ttft_restart_s": 0.2, "streams_4_tokens_per_s": 30.0}
    peer = {"ttft_cold_s": 4.0, "streams_4_tokens_per_s": 10.0}
    rows = {row["metric"]: row for row in judged({"homebox": ours, "llama-server": peer})}
    assert rows["ttft_cold_s"]["ratio"] == 0.25
    assert rows["ttft_cold_s"]["holds"]
    assert rows["ttft_restart_s"]["ratio"] == 0.2
    assert not rows["ttft_restart_s"]["holds"]
    assert rows["streams_4_tokens_per_s"]["ratio"] == 3.0
    assert rows["streams_4_tokens_per_s"]["holds"]
    assert len(rows) == 3


def test_requests_are_the_recorded_ones(shared: Path) -> None:
    bodies = recorded_session(shared / "clients/captures/opencode")
    assert len(bodies) == 5
    sent = fixed(bodies[1], 64, varied=True)
    assert {key: sent[key] for key in ("messages", "tools")} == {
        key: bodies[1][key] for key in ("messages", "tools")
    }
    assert (sent["max_tokens"], sent["temperature"], sent["ignore_eos"]) == (64, 0, True)
    assert "frequency_penalty" not in fixed(bodies[1], 64, varied=False)
    assert len({json.dumps(body) for body in stream_bodies(8)}) == 8


def test_only_text_counts_and_answers_of_another_length_are_refused() -> None:
    chunks = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"content": "a"}}]},
        {"choices": [{"delta": {"reasoning_content": "b"}}]},
        {"choices": [{"delta": {}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}},
    ]

    async def say(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await response.write(b": alive\n\ndata: [DONE]\n\n")
        return response

    async def served() -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", say)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def work() -> None:
        runner, url = await served()
        try:
            (found,) = await asyncio.to_thread(run, url, [fixed({}, 2, False)])
            assert len(found.arrivals) == 2
            assert (found.prompt_tokens, found.completion_tokens) == (9, 2)
            with pytest.raises(RuntimeError, match="2 tokens, not 3"):
                await asyncio.to_thread(run, url, [fixed({}, 3, False)])
        finally:
            await runner.cleanup()

    asyncio.run(work())
