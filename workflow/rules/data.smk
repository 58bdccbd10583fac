"""From sources, or the generator, to pairs that are split and scaled."""


rule ingest:
    input:
        source_files(PAIRS),
    output:
        manifest=f"{R}/pairs.json",
        token=f"{R}/pairs.zarr/zarr.json",
    log:
        f"{LOGS}/ingest.log",
    benchmark:
        f"{BENCHMARKS}/ingest.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: PASS_THREADS
    resources:
        **needs("ingest"),
    params:
        store=placed(f"{R}/pairs.zarr"),
        sources=lambda wildcards: source_state(PAIRS),
        spec=spec("ingest"),
    shell:
        "python -m behindthenoise ingest --store {params.store:q} --manifest {output.manifest:q}"
        " --spec {params.spec:q} > {log:q} 2>&1 && (grep 'warning: ' {log:q} >&2 || true)"
