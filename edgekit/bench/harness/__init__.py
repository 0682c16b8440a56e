"""edgekit as a model of lm-evaluation-harness, so that its tasks run on any artifact.

    pip install 'edgekit[lm-eval]'
    lm_eval --model edgekit --model_args artifact=DIR,level=NAME --tasks medqa_4options

Versions of lm_eval up to 0.4.13 know their own models alone; later ones find edgekit as a plug-in. With those that do
not, `python -m edgekit.bench.harness` stands in place of `lm_eval`: it makes edgekit known and does the same.
"""
