"""A Django project in one file, served as ASGI."""

import asyncio

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="example", ALLOWED_HOSTS=["*"])


async def which_loop(request):
    return JsonResponse({"loop": type(asyncio.get_running_loop()).__module__})


urlpatterns = [path("", which_loop)]
application = get_asgi_application()
