"""Plug-ins in the configuration: whose code, with which options, and what is done when it fails."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from pipeline.config.base import Fraction01, Section

# Not `additionalProperties`: what the options are is the plug-in's own affair, at any depth.
Options = Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]


class PluginSection(Section):
    """What all plug-ins share."""

    use: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        ...,
        title="Use",
        description="module:Class, or the name that an installed package gave it as an entry point of the group vramline.plugins.",
    )
    options: Options = Field(
        default_factory=dict,
        title="Options",
        description="Keyword arguments of the class.",
        repr=False,  # they may hold a token
    )
    on_error: Literal["skip", "stop"] = Field(
        "skip",
        title="On error",
        description="When it fails on a batch: the batch goes on without it (skip), or the run ends and its outputs are completed (stop). Counted either way.",
    )


class StagePlugin(PluginSection):
    """Your own stage behind tracking and analytics: it sees every batch of results and may change it (docs/plugins.md)."""


class PluginPost(PluginSection):
    """Your own code for a model that no family fits (docs/plugins.md). A batch that it fails on has no results."""

    family: Literal["plugin"] = Field("plugin", title="Family", description="Your own code.")
    score_threshold: Fraction01 = Field(
        0.5,
        title="Score threshold",
        description="Only with a tracker, which needs to know: detections with a lower score do no more than continue tracks.",
    )


class PluginSink(PluginSection):
    """Your own sink (docs/plugins.md)."""

    type: Literal["plugin"] = Field("plugin", title="Type", description="Your own code.")
