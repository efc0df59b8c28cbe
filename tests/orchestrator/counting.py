"""A module that random pipelines are made of."""

from __future__ import annotations

from asyncflow.orchestrator import BaseModule, ModuleContext


class Count(BaseModule):
    """One more than all its dependencies together, unless it is told to fail."""

    def run(self, context: ModuleContext) -> int:
        if context.params["fails"]:
            raise ValueError(context.module_name)
        total: int = sum(context.dependency_results.values())
        return 1 + total


class CountLater(BaseModule):
    """The same as a coroutine."""

    async def run(self, context: ModuleContext) -> int:
        return Count().run(context)
