/* The fully connected layer on the last axis; n: rows of a sample, inputs, outputs, inputs that are kept. */

static void sp_linear(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *g = &sp_views[a->r[1]], *w = &sp_views[a->w[0]];
    uint32_t ins = (uint32_t)a->n[1], outs = (uint32_t)a->n[2], b, r, o;
    for (b = 0; b < SP_BATCH; b++)
        for (r = 0; r < (uint32_t)a->n[0]; r++)
            for (o = 0; o < outs; o++) {
                float total = 0.0f;
                uint32_t i = 0;
                while (i < ins) {
                    sp_seg s = sp_at(x, b, r * ins + i), t = sp_at(g, 0, o * ins + i);
                    uint32_t m = sp_min(sp_min(64u, ins - i), s.run), j;
                    float part = 0.0f;
                    for (j = 0; j < m; j++) part += sp_ld(x, &s, j) * sp_ld(g, &t, j);
                    total += part;
                    i += m;
                }
                sp_put(w, b, r * outs + o, a->reads > 2u ? total + sp_get(&sp_views[a->r[2]], 0, o) : total);
            }
}

static void sp_linear_grad(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]], *g = &sp_views[a->r[1]];
    uint32_t ins = (uint32_t)a->n[1], outs = (uint32_t)a->n[2], q, b, k, o, j;
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t n, i = sp_range(w, k, &n);
            while (n) {
                float sum[16];
                uint32_t row = i / ins, m = sp_min(sp_min(16u, n), ins - i % ins);
                for (j = 0; j < 16u; j++) sum[j] = 0.0f;
                for (o = 0; o < outs; o++) {
                    float d = sp_get(dy, b, row * outs + o);
                    sp_seg t = sp_at(g, 0, o * ins + i % ins);
                    for (j = 0; j < m; j++) sum[j] += d * sp_ld(g, &t, j);
                }
                for (j = 0; j < m; j++) sp_put(w, b, i + j, sum[j]);
                i += m;
                n -= m;
            }
        }
    }
}

/* n[4]: features of a row of x, as it is held. */
static void sp_linear_grad_weight(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]], *x = &sp_views[a->r[1]], *w = &sp_views[a->w[0]];
    uint32_t outs = (uint32_t)a->n[2], keep = (uint32_t)a->n[3], held = (uint32_t)a->n[4], b, r, o, i, j;
    for (o = 0; o < outs; o++)
        for (i = 0; i < keep;) {
            float sum[16];
            uint32_t m = sp_min(16u, keep - i);
            for (j = 0; j < 16u; j++) sum[j] = 0.0f;
            for (b = 0; b < SP_BATCH; b++)
                for (r = 0; r < (uint32_t)a->n[0]; r++) {
                    float d = sp_get(dy, b, r * outs + o);
                    for (j = 0; j < m; j++) sum[j] += d * sp_get(x, b, r * held + i + j);
                }
            for (j = 0; j < m; j++) sp_put(w, 0, o * keep + i + j, sum[j]);
            i += m;
        }
}
