"""The watch on pages: what it must notice, it notices."""

from playwright.sync_api import Browser

from tests.support.site import Site, Watch


def test_errors_breaches_of_the_policy_and_other_hosts_are_noted(site: Site, browser: Browser) -> None:
    with browser.new_context() as context:
        watch = Watch(context, site.url)
        page = context.new_page()
        page.goto(site.url)
        assert watch.faults == []
        page.evaluate("console.error('said aloud')")
        page.evaluate("fetch('http://127.0.0.1:9/elsewhere').catch(() => null)")
        page.evaluate("document.body.append(Object.assign(document.createElement('style'), {textContent: 'p {}'}))")
        page.evaluate("setTimeout(() => { throw new Error('thrown'); })")
        with page.expect_console_message(lambda message: "status of 404" in message.text):
            page.evaluate("fetch('api/nowhere')")
        told = "\n".join(watch.faults)
        for word in ("said aloud", "connect-src", "style-src-elem by inline", "thrown", "status of 404"):
            assert word in told, told
        other = context.new_page()
        other.route("**", lambda route: route.fulfill(body="there"))
        other.goto("http://127.0.0.1:9/elsewhere")
        assert watch.faults[-1] == "asked another host: http://127.0.0.1:9/elsewhere"
