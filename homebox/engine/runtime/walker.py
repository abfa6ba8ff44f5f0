"""The worker pool's own machine code, as LLVM IR: worker loop, program walker, dispatcher.

One idea: a thread enters this code once and then needs no interpreter; what to run is data. The
functions are `homebox_worker(state, spins, kept)`, `homebox_run(state, launches, count, counters,
stop, times, kept) -> launches completed`, `homebox_quit(state)` and `homebox_spin(turns)`. `kept`
is memory of the thread's own, which a kernel may use from its first call of a launch to its last.
The order of their memory accesses is explained in `runtime_cpu`. Invariant: nothing else writes to
the state and the counters while a worker is inside.
"""

_YIELD_MASK = 255  # a waiting thread gives its core away every 256 turns
STATE_WORDS = 64  # 64-bit words
COUNTER_WORDS = 8  # per launch: one cache line
ROW = 5  # words of a launch: function, arguments, end of its units, units per chunk, first unit

_ARCH = {
    "x86_64": {
        "DECLARE": "declare void @llvm.x86.sse2.pause()\n"
        "declare void @llvm.x86.sse.stmxcsr(ptr)\n"
        "declare void @llvm.x86.sse.ldmxcsr(ptr)",
        "PAUSE": "call void @llvm.x86.sse2.pause()",
        "FUTEX": "202",
        # 0x1F80: all exceptions masked, round to nearest, denormals neither flushed nor zeroed
        "SAVE": "call void @llvm.x86.sse.stmxcsr(ptr %saved)",
        "DEFAULT": "store i32 8064, ptr %mode\n  call void @llvm.x86.sse.ldmxcsr(ptr %mode)",
        "RESTORE": "call void @llvm.x86.sse.ldmxcsr(ptr %saved)",
    },
    "aarch64": {
        "DECLARE": "declare void @llvm.aarch64.isb(i32)\n"
        "declare i64 @llvm.aarch64.get.fpcr()\n"
        "declare void @llvm.aarch64.set.fpcr(i64)",
        # The `yield` hint does nothing on most cores; the barrier waits as long as x86's pause.
        "PAUSE": "call void @llvm.aarch64.isb(i32 15)",
        "FUTEX": "98",
        "SAVE": "%fpcr = call i64 @llvm.aarch64.get.fpcr()\n  store i64 %fpcr, ptr %saved",
        "DEFAULT": "call void @llvm.aarch64.set.fpcr(i64 0)",
        "RESTORE": "%old = load i64, ptr %saved\n  call void @llvm.aarch64.set.fpcr(i64 %old)",
    },
}

# State, in 64-bit words: 0 generation (odd while a program is open; the futex), 1 quit;
# 8 active: workers inside a program; 16 sleepers;
# 24 launches, 25 count, 26 counters, 27 stop flag or null, 28 times or null.
_COMMON = """
@DECLARE@
declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, ptr)
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define internal void @relax(i64 %turn) {
  @PAUSE@
  %masked = and i64 %turn, @YIELD_MASK@
  %due = icmp eq i64 %masked, @YIELD_MASK@
  br i1 %due, label %give, label %done
give:
  %ignored = call i32 @sched_yield()
  br label %done
done:
  ret void
}
"""

# A thread's way through a program. The counters of a launch fill a cache line: 0 next unit, 1 units
# done, 2 verdict (0 open, 1 run, 2 stop): the first thread to arrive decides for all. The
# thread that completes a launch stamps its time, if times are wanted.
_WALK = """
define internal i64 @walk(ptr %state, ptr %kept) {
entry:
  %launches.at = getelementptr i64, ptr %state, i64 24
  %count.at = getelementptr i64, ptr %state, i64 25
  %counters.at = getelementptr i64, ptr %state, i64 26
  %stop.at = getelementptr i64, ptr %state, i64 27
  %times.at = getelementptr i64, ptr %state, i64 28
  %launches = load ptr, ptr %launches.at
  %count = load i64, ptr %count.at
  %counters = load ptr, ptr %counters.at
  %stop = load ptr, ptr %stop.at
  %times = load ptr, ptr %times.at
  %stoppable = icmp ne ptr %stop, null
  %timed = icmp ne ptr %times, null
  br label %launch
launch:
  %i = phi i64 [ 0, %entry ], [ %i.next, %finished ]
  %line.index = shl i64 %i, 3
  %taken.at = getelementptr i64, ptr %counters, i64 %line.index
  %done.at = getelementptr i64, ptr %taken.at, i64 1
  %verdict.at = getelementptr i64, ptr %taken.at, i64 2
  br i1 %stoppable, label %ask, label %start
ask:
  %verdict.seen = load atomic i64, ptr %verdict.at acquire, align 8
  %decided = icmp ne i64 %verdict.seen, 0
  br i1 %decided, label %judge, label %decide
decide:
  %flag = load atomic i32, ptr %stop acquire, align 4
  %asked = icmp ne i32 %flag, 0
  %wish = select i1 %asked, i64 2, i64 1
  %pair = cmpxchg ptr %verdict.at, i64 0, i64 %wish acq_rel acquire
  %before = extractvalue { i64, i1 } %pair, 0
  %won = extractvalue { i64, i1 } %pair, 1
  %verdict.made = select i1 %won, i64 %wish, i64 %before
  br label %judge
judge:
  %verdict = phi i64 [ %verdict.seen, %ask ], [ %verdict.made, %decide ]
  %halt = icmp eq i64 %verdict, 2
  br i1 %halt, label %stopped, label %start
start:
  %at0 = mul i64 %i, @ROW@
  %fn.at = getelementptr i64, ptr %launches, i64 %at0
  %args.at = getelementptr i64, ptr %fn.at, i64 1
  %end.at = getelementptr i64, ptr %fn.at, i64 2
  %chunk.at = getelementptr i64, ptr %fn.at, i64 3
  %base.at = getelementptr i64, ptr %fn.at, i64 4
  %fn = load ptr, ptr %fn.at
  %args = load ptr, ptr %args.at
  %last = load i64, ptr %end.at
  %base = load i64, ptr %base.at
  %units = sub i64 %last, %base
  %chunk.raw = load i64, ptr %chunk.at
  %chunk = call i64 @llvm.smax.i64(i64 %chunk.raw, i64 1)
  br label %late
late:
  %done.first = load atomic i64, ptr %done.at acquire, align 8
  %over = icmp sge i64 %done.first, %units
  br i1 %over, label %finished, label %grab
grab:
  %first = phi i64 [ 1, %late ], [ 0, %more.left ]
  %taken = atomicrmw add ptr %taken.at, i64 %chunk monotonic
  %some = icmp slt i64 %taken, %units
  br i1 %some, label %work, label %wait
work:
  %lo = add i64 %base, %taken
  %end = add i64 %lo, %chunk
  %hi = call i64 @llvm.smin.i64(i64 %end, i64 %last)
  call void %fn(ptr %args, i64 %lo, i64 %hi, ptr %kept, i64 %first)
  %size = sub i64 %hi, %lo
  %before.mine = atomicrmw add ptr %done.at, i64 %size acq_rel
  %after.mine = add i64 %before.mine, %size
  %completed = icmp sge i64 %after.mine, %units
  br i1 %completed, label %complete, label %more.left
more.left:
  %exhausted = icmp sge i64 %hi, %last
  br i1 %exhausted, label %wait, label %grab
complete:
  br i1 %timed, label %stamp, label %finished
stamp:
  %i.stamp = add i64 %i, 1
  %time.index = shl i64 %i.stamp, 1
  %time.at = getelementptr i64, ptr %times, i64 %time.index
  %clock = call i32 @clock_gettime(i32 1, ptr %time.at)
  br label %finished
wait:
  %turn = phi i64 [ 0, %grab ], [ 0, %more.left ], [ %turn.next, %again ]
  %done = load atomic i64, ptr %done.at acquire, align 8
  %all = icmp sge i64 %done, %units
  br i1 %all, label %finished, label %again
again:
  call void @relax(i64 %turn)
  %turn.next = add i64 %turn, 1
  br label %wait
finished:
  %i.next = add i64 %i, 1
  %more = icmp slt i64 %i.next, %count
  br i1 %more, label %launch, label %out
stopped:
  ret i64 %i
out:
  ret i64 %count
}
"""

_WORKER = """
define void @homebox_worker(ptr %state, i64 %spins, ptr %kept) {
entry:
  %mode = alloca i64, align 8
  @DEFAULT@
  %quit.at = getelementptr i64, ptr %state, i64 1
  %active.at = getelementptr i64, ptr %state, i64 8
  %sleepers.at = getelementptr i64, ptr %state, i64 16
  br label %idle
idle:
  %last = phi i64 [ 0, %entry ], [ %last, %missed ], [ %now, %leave ]
  br label %spin
spin:
  %turn = phi i64 [ 0, %idle ], [ %turn.next, %again ]
  %gen = load atomic i64, ptr %state acquire, align 8
  %quit = load atomic i64, ptr %quit.at acquire, align 8
  %quitting = icmp ne i64 %quit, 0
  br i1 %quitting, label %out, label %look
look:
  %bit = and i64 %gen, 1
  %open = icmp ne i64 %bit, 0
  %fresh = icmp ne i64 %gen, %last
  %join = and i1 %open, %fresh
  br i1 %join, label %enter, label %stay
stay:
  %patient = icmp slt i64 %turn, %spins
  br i1 %patient, label %again, label %sleep
sleep:
  %gen32 = trunc i64 %gen to i32
  %up = atomicrmw add ptr %sleepers.at, i64 1 seq_cst
  %slept = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %state, i64 128, i32 %gen32,
    ptr null, ptr null, i64 0)
  %down = atomicrmw sub ptr %sleepers.at, i64 1 seq_cst
  br label %again
again:
  @PAUSE@
  %turn.next = add i64 %turn, 1
  br label %spin
enter:
  %in = atomicrmw add ptr %active.at, i64 1 seq_cst
  %now = load atomic i64, ptr %state seq_cst, align 8
  %now.bit = and i64 %now, 1
  %still = icmp ne i64 %now.bit, 0
  br i1 %still, label %work, label %missed
missed:
  %back = atomicrmw sub ptr %active.at, i64 1 release
  br label %idle
work:
  %ignored = call i64 @walk(ptr %state, ptr %kept)
  br label %leave
leave:
  %gone = atomicrmw sub ptr %active.at, i64 1 release
  br label %idle
out:
  ret void
}
"""

_HOST = """
define internal void @wake(ptr %state) {
  %sleepers.at = getelementptr i64, ptr %state, i64 16
  %sleepers = load atomic i64, ptr %sleepers.at seq_cst, align 8
  %any = icmp ne i64 %sleepers, 0
  br i1 %any, label %call, label %done
call:
  %woken = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %state, i64 129, i32 2147483647,
    ptr null, ptr null, i64 0)
  br label %done
done:
  ret void
}

define i64 @homebox_run(ptr %state, ptr %launches, i64 %count, ptr %counters, ptr %stop,
                        ptr %times, ptr %kept) {
entry:
  %saved = alloca i64, align 8
  %mode = alloca i64, align 8
  @SAVE@
  @DEFAULT@
  %bytes = shl i64 %count, 6
  call void @llvm.memset.p0.i64(ptr align 64 %counters, i8 0, i64 %bytes, i1 false)
  %launches.at = getelementptr i64, ptr %state, i64 24
  %count.at = getelementptr i64, ptr %state, i64 25
  %counters.at = getelementptr i64, ptr %state, i64 26
  %stop.at = getelementptr i64, ptr %state, i64 27
  %times.at = getelementptr i64, ptr %state, i64 28
  store ptr %launches, ptr %launches.at
  store i64 %count, ptr %count.at
  store ptr %counters, ptr %counters.at
  store ptr %stop, ptr %stop.at
  store ptr %times, ptr %times.at
  %timed = icmp ne ptr %times, null
  br i1 %timed, label %stamp, label %open
stamp:
  %clock = call i32 @clock_gettime(i32 1, ptr %times)
  br label %open
open:
  %closed = atomicrmw add ptr %state, i64 1 seq_cst
  call void @wake(ptr %state)
  %ran = call i64 @walk(ptr %state, ptr %kept)
  %opened = atomicrmw add ptr %state, i64 1 seq_cst
  %active.at = getelementptr i64, ptr %state, i64 8
  br label %wait
wait:
  %turn = phi i64 [ 0, %open ], [ %turn.next, %again ]
  %active = load atomic i64, ptr %active.at seq_cst, align 8
  %empty = icmp eq i64 %active, 0
  br i1 %empty, label %out, label %again
again:
  call void @relax(i64 %turn)
  %turn.next = add i64 %turn, 1
  br label %wait
out:
  @RESTORE@
  ret i64 %ran
}

define void @homebox_quit(ptr %state) {
  %quit.at = getelementptr i64, ptr %state, i64 1
  store atomic i64 1, ptr %quit.at seq_cst, align 8
  %before = atomicrmw add ptr %state, i64 2 seq_cst
  call void @wake(ptr %state)
  ret void
}

define void @homebox_spin(i64 %turns) {
entry:
  br label %loop
loop:
  %turn = phi i64 [ 0, %entry ], [ %turn.next, %loop ]
  @PAUSE@
  %turn.next = add i64 %turn, 1
  %more = icmp slt i64 %turn.next, %turns
  br i1 %more, label %loop, label %out
out:
  ret void
}
"""


def walker_ir(arch: str) -> str:
    """Return the module for "x86_64" or "aarch64"; Linux only, because of its futex."""
    text = _COMMON + _WALK + _WORKER + _HOST
    for name, value in _ARCH[arch].items():
        text = text.replace(f"@{name}@", value)
    return text.replace("@YIELD_MASK@", str(_YIELD_MASK)).replace("@ROW@", str(ROW))
