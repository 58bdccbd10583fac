"""Behind the Noise: fast scans and one slow scan in; calibrated, denoised volumes, tokens and a report out."""

import os

from snakemake.utils import min_version

min_version("9.27")


# --configfile takes the place of the default; it is not mixed with it. A module has the configuration that it is given.
if not workflow.config_settings.configfiles:

    configfile: workflow.current_basedir.join("config.yaml").get_path_or_uri(secret_free=True)


include: "workflow/rules/common.smk"


scattergather:
    share=CONFIG.inference.jobs,
    score=CONFIG.calibration.jobs,


include: "workflow/rules/data.smk"
include: "workflow/rules/ensemble.smk"
include: "workflow/rules/calibration.smk"
include: "workflow/rules/tokens.smk"
include: "workflow/rules/volumes.smk"
include: "workflow/rules/regions.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/sweep.smk"


rule all:
    # the target of a workflow that uses this one as a module is its own
    default_target: not MODULE
    input:
        results=[
            *rules.report.output,
            *expand(rules.finish.output, volume=VOLUMES),
            *expand([*rules.regions.output, *rules.overlay.output], volume=VOLUMES, target=CONFIG.regions),
            *expand(rules.publish.output, volume=CONFIG.publish),
        ],
        deleted=deleted(
            [
                *rules.ingest.output,
                *expand([*rules.wire.output, *rules.train.output, *rules.predict.output], member=MEMBERS),
                *[*rules.average.output, *rules.embed.output, *rules.tokenize.output, *rules.label.output],
                *[*rules.survey.output, *gather.score(rules.score.output), *rules.calibrate.output],
                *[*rules.evaluate.output, *rules.gather.output],
                *expand(
                    [*rules.fetch.output, *rules.place.output, *rules.plan.output, *rules.compare.output],
                    volume=VOLUMES,
                ),
                *[expand(file, volume=VOLUMES) for file in gather.share(rules.infer.output, allow_missing=True)],
                *expand(rules.describe.output, volume=VOLUMES),
            ]
        ),


onsuccess:
    made = {file for job in workflow.dag.finished_jobs for file in job.output}
    for what, file in {"report": f"{R}/report/report.html", "figure of the sweep": f"{R}/sweep/sweep.svg"}.items():
        if file in made:
            print(f"The {what} is {os.path.abspath(file)}")
    try:
        ledger.write(CONFIG, Path(R), PROJECT)
    except (BehindTheNoiseError, OSError) as problem:
        # what was computed is none the worse for it
        print(f"{R}/run.json cannot be written: {problem}")
