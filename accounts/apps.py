from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from django.contrib import admin

        from accounts import sign_in

        admin.site.login_form = sign_in.StaffSignInForm
