"""Run cells of a text notebook: python run.py s1.txt [ids to print]"""
import re,sys,os,time,traceback
os.environ["MPLBACKEND"]="agg"
import matplotlib; matplotlib.use("agg")
sys.path.insert(0,"/work/main/src"); os.chdir("/work/main/notebooks")
ns={"__name__":"__main__","display":lambda *a:print(*[getattr(x,'data',x) for x in a])}
import ast
for f in sys.argv[1:]:
    src=open(f"/work/n08/nb/{f}").read()
    for part in re.split(r"^%%% ",src,flags=re.M)[1:]:
        head,body=part.split("\n",1); cid,kind=head.split()
        if kind!="code": continue
        t=time.time()
        try:
            tree=ast.parse(body); last=None
            if tree.body and isinstance(tree.body[-1],ast.Expr): last=ast.Expression(tree.body.pop().value)
            exec(compile(tree,cid,"exec"),ns)
            if last is not None:
                v=eval(compile(last,cid,"eval"),ns)
                if v is not None and not body.rstrip().endswith(";"): print(getattr(v,"data",getattr(v,"_repr_markdown_",lambda:v)() if hasattr(v,"_repr_markdown_") else v))
            if "fig-" in cid: import matplotlib.pyplot as plt; plt.savefig(f"/work/n08/nb/{cid}.png",dpi=70); plt.close("all")
        except Exception as e:
            print("FAILED",cid); traceback.print_exc(limit=3)
            for l in traceback.extract_tb(e.__traceback__):
                if l.filename==cid: print("   line:", body.split("\n")[l.lineno-1])
            if "claim" not in cid: sys.exit(1)
        if time.time()-t>1.5: print(f"[{cid} {time.time()-t:.1f}s]")
