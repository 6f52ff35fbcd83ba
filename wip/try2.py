import sys, numpy as np, warnings; warnings.filterwarnings("ignore")
from fits import *; from rep2 import report
names = sys.argv[1:] or list(TARGETS)
for name in names:
    for kind in GUIDES:
        if kind == "mvn" and name in ("item response",): continue
        model, guide, truth, r, sec = fit(name, kind, 0)
        e, lo, hi, by = quality(truth, draws_of(model, guide, r.params, random.key(1)))
        t = time.perf_counter(); f = report(random.key(2), model, guide, r.params); t = time.perf_counter() - t
        R = f["rows"]
        err = max(abs(v["shift"]).max() for v in R.values()); rl = min(v["width"].min() for v in R.values()); rh = max(v["width"].max() for v in R.values())
        se = max(v["se"].max() for v in R.values()); sew = max(v["se_width"].max() for v in R.values())
        far = max((v["far"].max() for v in R.values() if v["far"].size), default=0)
        te = max((abs(R[k]["m"] - np.ravel(m)) / np.ravel(s)).max() for k, (m, s) in truth.items())
        ts = np.concatenate([R[k]["s"] / np.ravel(s) for k, (m, s) in truth.items()])
        good = e<.5 and lo>2/3 and hi<4/3; calls = err<.4 and rl>.72 and rh<1.28 and far<4
        print(f"{name[:22]:22s} {kind:6s} truth {e:6.2f} {lo:5.2f} {hi:5.2f} {'GOOD' if good else 'bad '} | report {err:6.2f} {rl:5.2f} {rh:5.2f} se {se:.2f} {sew:.2f} far {far:6.1f} ({f['arrived']}) {'good' if calls else 'OFF '} {'' if good==calls else 'MISS' if calls else 'ALARM'} | vs truth {te:5.2f} {ts.min():.2f} {ts.max():.2f} | acc {f['accs'][-1]:.2f} eps {f['eps']:.2f} | fit {sec:.1f} rep {t:.1f} {[round(x,1) for x in f['times']]} {[round(x,2) for x in f['ts']]}", flush=True)
