"""One page that tells it all."""


rule gather:
    input:
        manifest=f"{R}/pairs.json",
        tables=rules.evaluate.output,
        certificate=f"{R}/calibration/certificate.json",
        records=of_members("train.json"),
        graphs=of_members("graph.json"),
        finished=expand(f"{R}/volumes/{{volume}}/finish.json", volume=VOLUMES),
        geometries=expand(f"{R}/volumes/{{volume}}/geometry.json", volume=VOLUMES),
        shifts=expand(f"{R}/volumes/{{volume}}/shift.json", volume=VOLUMES),
        descriptions=expand(f"{R}/volumes/{{volume}}/tokens.csv", volume=VOLUMES),
        regions=expand(f"{R}/volumes/{{volume}}/regions/{{target}}.json", volume=VOLUMES, target=CONFIG.regions),
        stability=f"{R}/latents/stability.csv",
    output:
        content=f"{R}/report/content.json",
        slices=f"{R}/report/slices.npz",
    log:
        f"{LOGS}/gather.log",
    benchmark:
        f"{BENCHMARKS}/gather.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("gather"),
    params:
        pairs=placed(f"{R}/pairs.zarr"),
        evaluation=placed(f"{R}/evaluation"),
        volumes=placed(expand(f"{R}/volumes/{{volume}}.ome.zarr", volume=VOLUMES)),
        spec=spec("gather"),
    shell:
        "python -m behindthenoise gather --pairs {params.pairs:q} --evaluation {params.evaluation:q}"
        " --certificate {input.certificate:q} --volumes {params.volumes:q} --geometries {input.geometries:q} --shifts {input.shifts:q}"
        " --descriptions {input.descriptions:q} --regions {input.regions:q} --stability {input.stability:q}"
        " --records {input.records:q} --graphs {input.graphs:q} --content {output.content:q} --spec {params.spec:q} > {log:q} 2>&1"


rule report:
    input:
        content=f"{R}/report/content.json",
        slices=f"{R}/report/slices.npz",
    output:
        page=report(f"{R}/report/report.html", category="Page"),
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{BENCHMARKS}/report.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("report"),
    params:
        spec=spec("report"),
    shell:
        "python -m behindthenoise report --content {input.content:q} --slices {input.slices:q} --page {output.page:q}"
        " --spec {params.spec:q} > {log:q} 2>&1"
