"""The models that whoever asks may know of, and the names they go by."""

from aiohttp import web

from neuron.protocol.errors import model_not_found
from services.fleet import views
from services.gateway.context import GATEWAY
from services.gateway.identity import concrete, may_see
from services.schema import ModelView


async def visible_models(request: web.Request) -> dict[str, ModelView]:
    """Id → model: whatever some node can serve, loaded or not."""
    fleet = request.app[GATEWAY].fleet
    await fleet.dispatcher.wait_for_first_answers()
    return {
        view.id: view
        for view in views.servable_models(fleet.state)
        if may_see(request, view.id)
    }


async def visible_names(request: web.Request) -> dict[str, ModelView]:
    """Name → model, by name: ids, and aliases that are no patterns."""
    models = await visible_models(request)
    aliases = {
        alias: models[model]
        for alias, model in request.app[GATEWAY].fleet.state.catalogue.aliases.items()
        if model in models
    }
    return dict(sorted((aliases | models).items()))


async def visible_model(request: web.Request, name: str) -> ModelView:
    """The one that a request for `name` would reach.

    Raises:
        ApiError: 404, there is none, or nothing can serve it.
    """
    model = await concrete(request, name)
    models = await visible_models(request)
    if model not in models:
        raise model_not_found(name, [*await visible_names(request)])
    return models[model]
