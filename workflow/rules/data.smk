"""From sources, or the generator, to pairs that are split and scaled."""


rule ingest:
    input:
        source_files([CONFIG.pairs.noisy, CONFIG.pairs.clean, CONFIG.pairs.mask] if CONFIG.pairs else []),
    output:
        manifest=f"{R}/pairs.json",
        token=f"{R}/pairs.zarr/zarr.json",
    log:
        f"{LOGS}/ingest.log",
    benchmark:
        f"{BENCHMARKS}/ingest.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    params:
        store=f"{R}/pairs.zarr",
        spec=spec("ingest"),
    shell:
        "python -m behindthenoise ingest --store {params.store:q} --manifest {output.manifest:q}"
        " --spec {params.spec:q} > {log:q} 2>&1"


rule check:
    input:
        pairs=f"{R}/pairs.json",
        graphs=of_members("graph.json"),
    output:
        manifest=f"{R}/check.json",
    log:
        f"{LOGS}/check.log",
    benchmark:
        f"{BENCHMARKS}/check.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    params:
        spec=spec("check"),
    shell:
        "python -m behindthenoise check --pairs {input.pairs:q} --graphs {input.graphs:q} --manifest {output.manifest:q}"
        " --spec {params.spec:q} > {log:q} 2>&1"
