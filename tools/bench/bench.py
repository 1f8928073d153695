"""bench.py - what all comparisons share: processes with their time and memory, peers as workers, the machine, results

The one idea: a neighbour's load hits whatever runs at that moment, so every comparison runs ours and each peer in turn, round by
round, and only medians of rounds of the same run are divided.  Python's standard library only.
SPDX-License-Identifier: Apache-2.0
"""
import array, datetime, json, os, platform, random, re, shutil, statistics, subprocess, sys, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
RESULTS = os.path.join(TOP, "tests", "results")
TICK = os.sysconf("SC_CLK_TCK")
COPY = """import time
n, t, a, b = 1 << 28, [], bytearray(1 << 28), memoryview(bytearray(1 << 28))
for _ in range(4):
    s = time.perf_counter()
    b[:] = a
    t.append(time.perf_counter() - s)
print(round(2 * n / min(t[1:]) / 1e9, 1))"""


class Missing(Exception):
    """Something that a comparison needs is not here; its text says what."""


# ---- processes
class Run:
    """One finished process: wall and cpu seconds, peak_mb (largest resident set), private_mb (largest anonymous part), out."""


def status_mb(pid, key):
    try:
        with open(f"/proc/{pid}/status") as f:
            return next((int(line.split()[1]) / 1024 for line in f if line.startswith(key + ":")), 0.0)
    except OSError:
        return 0.0


def run(cmd, env=None, watch=True, may_fail=False):
    """Runs a command to its end; its stderr is shown only when it fails.  Memory is sampled, for what the system counts at the end
    of a child is at least what this process held when it began."""
    r, peak, resident = Run(), [0.0], [0.0]
    t = time.perf_counter()
    p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)

    def sample():
        while p.returncode is None:
            peak[0] = max(peak[0], status_mb(p.pid, "RssAnon"))
            resident[0] = max(resident[0], status_mb(p.pid, "VmHWM"))
            time.sleep(0.01)
    said = []
    threads = [threading.Thread(target=lambda: said.append(p.stderr.read()), daemon=True)]
    if watch:
        threads.append(threading.Thread(target=sample, daemon=True))
    for x in threads:
        x.start()
    r.out = p.stdout.read()
    _, code, use = os.wait4(p.pid, 0)
    r.wall = time.perf_counter() - t
    resident[0] = resident[0] or use.ru_maxrss / 1024  # gone before the first sample
    p.returncode = os.waitstatus_to_exitcode(code)
    for x in threads:
        x.join()
    r.code, r.cpu, r.peak_mb, r.private_mb = p.returncode, use.ru_utime + use.ru_stime, resident[0], peak[0]
    if r.code and not may_fail:
        raise Missing(f"{os.path.basename(cmd[0])} {' '.join(cmd[1:4])} ... ended with {r.code}: {said[0].decode()[-1500:].strip()}")
    return r


class Worker:
    """A peer that stays loaded: a script under the peers' Python that answers each line with a JSON line.  ready: its first one."""
    def __init__(self, ctx, script, *args, threads=None):
        if not ctx.python:
            raise Missing("no peers (PEERS=DIR)")
        n = str(threads or ctx.threads)
        env = dict(os.environ, OMP_NUM_THREADS=n, MKL_NUM_THREADS=n, RAYON_NUM_THREADS=n, TOKENIZERS_PARALLELISM="true" if n != "1" else "false",
                   HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=ctx.path("hf"), PYTHONDONTWRITEBYTECODE="1")
        self.log = open(ctx.path(f"worker-{len(ctx.open_workers)}.log"), "w+")
        self.p = subprocess.Popen([ctx.python, os.path.join(HERE, "peers", script), *map(str, args)], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=self.log, text=True, env=env)
        ctx.open_workers.append(self)
        self.ready = self.answer()
        if "missing" in self.ready:
            raise Missing(self.ready["missing"])

    def answer(self):
        line = self.p.stdout.readline()
        if not line:
            self.log.seek(0)
            raise Missing("peer ended: " + self.log.read()[-1500:])
        return json.loads(line)

    def go(self, word="go"):
        self.p.stdin.write(word + "\n")
        self.p.stdin.flush()
        return self.answer()

    def close(self):
        if self.p.poll() is None:
            self.p.stdin.close()
            self.p.wait()


# ---- the machine
def busy():
    """(busy, stolen) seconds of all processors so far"""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:9]]
    return (v[0] + v[1] + v[2] + v[5] + v[6]) / TICK, v[7] / TICK


def own():
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


class Others:
    """Processor seconds a second that other processes of this machine took meanwhile (0: alone, 1: one core taken), and stolen ones."""
    def __init__(self):
        self.t, self.b, self.o = time.perf_counter(), busy(), own()

    def rate(self):
        t, b = time.perf_counter() - self.t, busy()
        return {"others_cpu": round(max(0.0, b[0] - self.b[0] - (own() - self.o)) / t, 2), "stolen": round((b[1] - self.b[1]) / t, 2)}


def first(path, pattern):
    try:
        with open(path) as f:
            return next((m.group(1).strip() for m in map(re.compile(pattern).match, f) if m), "")
    except OSError:
        return ""


def git(*args):
    try:
        p = subprocess.run(["git", "-C", TOP, *args], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return p.stdout.strip() if not p.returncode else ""


def machine():
    """What the numbers were taken on: hardware, kernel, revision and date; no names of hosts or places."""
    flags = first("/proc/cpuinfo", r"flags\s*:\s*(.*)").split()
    wanted = [f for f in flags if f.startswith(("avx", "amx", "fma", "f16c"))]
    return {"cpu": first("/proc/cpuinfo", r"model name\s*:\s*(.*)"), "cores": len(os.sched_getaffinity(0)), "flags": " ".join(wanted),
            "memory_gb": round(int(first("/proc/meminfo", r"MemTotal:\s*(\d+)") or 0) / 1e6, 1), "kernel": platform.release(),
            "python": platform.python_version(), "commit": git("rev-parse", "--short=12", "HEAD"), "modified": bool(git("status", "--porcelain", "-uno")),
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "copy_gb_s_one_thread": float(run([sys.executable, "-c", COPY], watch=False).out)}


def free_gb():
    return int(first("/proc/meminfo", r"MemAvailable:\s*(\d+)") or 0) / 1e6


def uncache(*paths):
    """Forgets the files' pages, so that the next read comes from the disk."""
    for p in paths:
        fd = os.open(p, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


# ---- numbers
def med(values):
    return statistics.median(values) if values else None


def rounded(x, digits=4):
    if isinstance(x, float):
        return float(f"{x:.{digits}g}")
    if isinstance(x, dict):
        return {k: rounded(v, digits) for k, v in x.items()}
    return [rounded(v, digits) for v in x] if isinstance(x, (list, tuple)) else x


def line(what, ours, peer=None, value=None, target=None, least=True, unit=""):
    """A row of the summary.  value: what the target is about (a ratio, a size, a time); held is None where either is missing."""
    held = None if value is None or target is None else bool(value >= target if least else value <= target)
    return rounded({"what": what, "ours": ours, "peer": peer, "unit": unit, "value": value, "target": target, "least": least, "held": held})


def versus(what, ours, peer, target, unit, faster="more"):
    """ours against peer as a ratio >= target; faster: whether more or less of the unit is better."""
    ratio = None if not ours or not peer else ours / peer if faster == "more" else peer / ours
    return line(what, ours, peer, ratio, target, True, unit)


# ---- what the comparisons work on
class Context:
    """Settings of a run and the inputs that comparisons share, made once in `work`."""
    def __init__(self, bin_dir, lib_dir, work, model=None, text=None, python=None, rounds=3, threads=2, small=False):
        self.bin, self.lib, self.work, self.text, self.python = bin_dir, lib_dir, os.path.abspath(work), text, python
        self.rounds, self.threads, self.small, self.open_workers = rounds, threads, small, []
        os.makedirs(work, exist_ok=True)
        self.model = os.path.abspath(model) if model and not small else self.random_model()
        with open(os.path.join(self.model, "config.json")) as f:
            self.config = json.load(f)

    def path(self, *names):
        p = os.path.join(self.work, *names)
        os.makedirs(os.path.dirname(p), exist_ok=True)
        return p

    def prog(self, name, *args, **kw):
        return run([os.path.join(self.bin, name), *map(str, args)], **kw)

    def worker(self, *args, **kw):
        return Worker(self, *args, **kw)

    def worker_or_none(self, notes, *args, **kw):
        """A peer that may be missing: then a note says why, in one line without names of places."""
        if not self.python:
            return None
        try:
            return Worker(self, *args, **kw)
        except Missing as e:
            notes.append(f"{args[0]} {args[-1]}: {re.sub(r'/[^ ]*/', '', str(e).strip().splitlines()[-1])}"[:240])

    def close(self):
        for w in self.open_workers:
            w.close()
        self.open_workers = []

    def made(self, name, *args):
        """A model directory of random weights, made once for these options."""
        d, stamp = self.path(name), " ".join(map(str, args))
        said = d + ".options"
        if not os.path.exists(said) or open(said).read() != stamp:
            shutil.rmtree(d, ignore_errors=True)
            self.prog("mkmodel", "-q", *args, "-o", d)
            with open(said, "w") as f:
                f.write(stamp)
        return d

    def random_model(self):
        """SmolLM2's shape, or a tiny one, with a tokenizer of this tree: for where the real one is not at hand."""
        tok = self.path("tokenizer", "tokenizer.json")
        shutil.copyfile(os.path.join(TOP, "tests", "golden", "tokenizers", "smollm.json"), tok)
        with open(self.path("tokenizer", "tokenizer_config.json"), "w") as f:
            json.dump({"bos_token": "<|start|>", "eos_token": "<|end|>"}, f)
        shape = (2, 64, 128, 2, 1, 32) if self.small else (30, 576, 1536, 9, 3, 64)
        return self.made("tiny" if self.small else "like-smollm2", *self.shape(*shape), "--vocab", 49152, "--tied", "--store", "bf16",
                         "--tokenizer", os.path.dirname(tok))

    @staticmethod
    def shape(layers, hidden, ffn, heads, kv, dim):
        return ["--layers", layers, "--hidden", hidden, "--ffn", ffn, "--heads", heads, "--kv-heads", kv, "--head-dim", dim]

    def student(self, vocab):
        """The 70M student of the targets: 24 blocks of 448."""
        shape = (2, 48, 96, 2, 1, 24) if self.small else (24, 448, 1152, 6, 2, 64)
        return self.made(f"student-{vocab}", *self.shape(*shape), "--vocab", vocab, "--tied", "--store", "f32")

    def documents(self, limit):
        """About `limit` bytes of English in documents of at most 16 KB, as JSON lines with a field text; the same for all sides."""
        p = self.path(f"documents-{limit}.jsonl")
        if os.path.exists(p):
            return p
        done = 0
        with open(p + ".part", "w") as f:
            for text in self.sources():
                for k in range(0, len(text), 16000):
                    f.write(json.dumps({"text": text[k:k + 16000]}, ensure_ascii=False) + "\n")
                    done += len(text[k:k + 16000].encode())
                if done >= limit:
                    break
        os.rename(p + ".part", p)
        return p

    def sources(self):
        """Texts: TEXT (JSON lines) if given, else this Python's own library and, behind all, made-up sentences."""
        if self.text:
            with open(self.text) as f:
                yield from (json.loads(x)["text"] for x in f)
            return
        lib = os.path.dirname(os.__file__)
        for d, _, names in sorted(os.walk(lib)):
            for n in sorted(names):
                if n.endswith((".py", ".txt", ".rst")):
                    yield open(os.path.join(d, n), errors="replace").read()
        r = random.Random(1)
        while True:
            yield " ".join("".join(r.choice("etaoinshrdlu") for _ in range(r.randint(2, 9))) for _ in range(2000)) + ".\n"

    def tokens(self, samples, seq):
        """A token set of that many sequences, and its ids as JSON for the peers."""
        tok, ids = self.path(f"{samples}x{seq}.tok"), self.path(f"{samples}x{seq}.json")
        if not os.path.exists(ids):
            docs = self.documents(samples * seq * 12 + (1 << 20))
            self.prog("calib-sample", "-q", "-f", "-t", self.model, "--samples", samples, "--seq", seq, "--eos", "none", docs, "-o", tok)
            with open(ids, "w") as f:
                json.dump([r["ids"] for r in self.records(tok)], f)
        return tok, ids

    def records(self, artifact):
        return [json.loads(x) for x in self.prog("artcat", artifact, watch=False).out.splitlines()[1:-1]]

    def rate_of(self, events):
        """The last rate that a program's --events file reports: of its loop alone."""
        with open(events) as f:
            rates = [json.loads(x)["rate"] for x in f if '"progress"' in x]
        os.remove(events)
        return rates[-1]


def text_bytes(docs):
    with open(docs) as f:
        return sum(len(json.loads(x)["text"].encode()) for x in f)


def ids_of(records):
    """All ids of a token set's records, one array"""
    a = array.array("I")
    for r in records:
        a.extend(r["ids"])
    return a


# ---- the ceiling: matrix products at the shapes of a model
def products(config, rows, backward=False, share=1):
    """[(form, rows, in, out, count)]: the linear layers of a model for `rows` tokens; backward: dX and dW as well."""
    c, f, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    h, g = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    d = config.get("head_dim") or c // h
    shapes = [(c, (h + 2 * g) * d), (h * d, c), (c, 2 * f), (f, c)]
    return [(form, rows, i, o, layers * share) for i, o in shapes for form in (("fwd", "dx", "dw") if backward else ("fwd",))]


def head_products(config, rows, times, backward=False):
    """The output matrix by blocks of at most 512 rows, as the chunked head works"""
    n = min(rows, 512)
    return [(form, n, config["hidden_size"], config["vocab_size"], times) for form in (("fwd", "dx", "dw") if backward else ("fwd",))]


def gemm(ctx, specs, dtype, pairs=5):
    """bench-gemm's rows for these products"""
    words = [f"{form}:{m}:{i}:{o}" for form, m, i, o in specs]
    out = run([os.path.join(ctx.lib, "bench-gemm"), "--threads", str(ctx.threads), "--dtype", dtype, "--pairs", str(3 if ctx.small else pairs), *words],
              env=dict(os.environ, OMP_NUM_THREADS=str(ctx.threads)), watch=False).out
    return [json.loads(x) for x in out.splitlines()]


def ceiling(ctx, work, dtype):
    """FLOP/s when each product runs at the better of both libraries' measured rates: sum of FLOP / sum of their times"""
    specs = sorted({w[:4] for w in work})
    rate = dict(zip(specs, (max(r["ours"], r["onednn"]) for r in gemm(ctx, specs, dtype))))
    flop = [2.0 * m * i * o * n for _, m, i, o, n in work]
    return sum(flop) / sum(f / rate[w[:4]] for f, w in zip(flop, work)) * 1e9


# ---- results
def save(ctx, name, result, where=RESULTS):
    os.makedirs(where, exist_ok=True)
    path = os.path.join(where, f"bench-{name}.json")
    with open(path + ".part", "w") as f:
        json.dump(rounded(result), f, indent=1)
        f.write("\n")
    os.rename(path + ".part", path)


def show(x):
    if x is None:
        return ""
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def table(results):
    """Markdown of all lines of these results"""
    rows = ["| comparison | ours | peer | unit | ours/peer or value | target | held |", "|---|---:|---:|---|---:|---:|---|"]
    for r in results:
        for x in r["lines"]:
            target = "" if x["target"] is None else ("≥ " if x["least"] else "≤ ") + show(x["target"])
            held = "" if x["held"] is None else "yes" if x["held"] else "**no**"
            rows.append(f"| {x['what']} | {show(x['ours'])} | {show(x['peer'])} | {x['unit']} | {show(x['value'])} | {target} | {held} |")
    return "\n".join(rows) + "\n"
