"""The section `tokens`: how latents are clustered."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from behindthenoise.config.section import Int, Name, Section


class TokensConfig(Section):
    """How the latents are clustered."""

    count: Annotated[Int, Field(ge=2, le=255)] | Literal["auto"] = Field(
        default="auto",
        description="Tokens. auto: as many as other seeds and both halves of the ensemble agree on, where neighbours share them; "
        "the report says where they agree on none.",
    )
    finest: Annotated[Int, Field(ge=2, le=255)] = Field(
        default=12, description="Tokens of the finest level, which are joined step by step to `count`; never fewer than `count`."
    )
    classes: dict[Name, Annotated[tuple[Annotated[Int, Field(ge=1, le=255)], ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Names for tokens, which join them: {crack: [3, 7], void: [1]}. Numbered by their names. No network runs.",
    )
    components: Int = Field(default=8, ge=1, le=16, description="Components of the stored embedding.")
    sample: Int = Field(default=100_000, ge=100, description="Training voxels whose latents fit the projection and the tokens.")
    fit_also_on: tuple[Name, ...] = Field(
        default=(),
        description="Volumes whose voxels, as many as `sample` in all, fit the projection and the tokens as well, so that these "
        "know materials that training blocks lack. Novelty is measured from training voxels still. All networks predict again.",
    )
    seed: Int = Field(default=0, ge=0, lt=2**32, description="Seed of the sample and of the clustering.")

    @field_validator("fit_also_on")
    @classmethod
    def _fitted_volumes_hold_no_judges(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "field" in names:
            raise ValueError(
                "tokens may not be fitted on the volume 'field', which holds the calibration and test voxels; its training voxels "
                "take part anyway"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"volumes {', '.join(names)} name one twice; name each once")
        return names

    @model_validator(mode="after")
    def _sample_is_large_enough(self) -> "TokensConfig":
        if max(self.least, self.finest) > self.sample:
            raise ValueError(
                f"{max(self.least, self.finest)} tokens are more than the {self.sample} voxels of `sample`; ask for fewer tokens"
            )
        return self

    @model_validator(mode="after")
    def _classes_are_disjoint(self) -> "TokensConfig":
        if self.classes and self.count == "auto":
            raise ValueError(
                "classes name tokens by their numbers, which may change with `count: auto`; set count to the number that was found "
                "(latents/tokens.csv)"
            )
        owner: dict[int, str] = {}
        for name, members in self.classes.items():
            for token in members:
                if token in owner:
                    raise ValueError(f"token {token} is in the classes {owner[token]} and {name}; a token has one name")
                if self.count != "auto" and token > self.count:
                    raise ValueError(f"class {name} names token {token}, but count is {self.count}; name tokens from 1 to it")
                owner[token] = name
        return self

    @property
    def least(self) -> int:
        """Tokens that there will be at least."""
        return 2 if self.count == "auto" else self.count

    def finest_of(self, voxels: int) -> int:
        """Tokens of the finest level, where so many voxels are sampled."""
        return min(max(self.least, self.finest), voxels)
