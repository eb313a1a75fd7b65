from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from django.contrib import admin

        from accounts import (
            reauthentication,  # noqa: F401 - its receiver notes each sign-in, from the process's first one on
            sign_in,
        )

        admin.site.login_form = sign_in.StaffSignInForm
